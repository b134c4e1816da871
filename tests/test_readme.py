"""What the README says works: every command is run, on the tiny preset and a few steps."""

import json
import re
import shlex
from pathlib import Path

import pytest
from PIL import Image

from datamodules.digits import prepare
from emu2_lit.cli import main
from emu2_lit.model import Emu2Config, Emu2ForConditionalGeneration, Emu2Processor
from tests.hub import hub

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
FEW_STEPS = [
    "trainer.max_steps=2", "trainer.max_epochs=null", "trainer.val_check_interval=null", "data.global_batch_size=4",
    "data.micro_batch_size=2", "data.workers=0", "callbacks.answers=null", "trainer.precision=32-true",
    "model.dtype=float32",
]  # fmt: skip

FEW_DRAWINGS = [
    "trainer.max_steps=2", "data.types.0.batch_size=2", "data.types.1.batch_size=2", "data.micro_batch_size=2",
    "data.validation_limit=4", "evaluation.benchmarks.0.limit=2", "drawing.steps=2",
]  # fmt: skip

CLUSTER = ("submit", "status", "stop")  # tests/slurm runs them on a SLURM

INSTANCES = {  # a COCO file about the stranger's photo
    "images": [{"id": 1, "file_name": "cat.jpg", "width": 256, "height": 256}],
    "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [64, 64, 128, 128], "iscrowd": 0}],
    "categories": [{"id": 1, "name": "cat"}],
}


def commands() -> list[list[str]]:
    """The command lines of all bash blocks, in order, without their remarks."""
    blocks = re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
    return [shlex.split(line, comments=True) for block in blocks for line in block.splitlines() if line.strip()]


def test_every_make_target_is_there():
    targets = [words[1] for words in commands() if words[0] == "make"]
    assert targets
    makefile = (ROOT / "Makefile").read_text()
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_the_table_is_that_of_the_recipes(capsys):
    assert main(["recipes", "--markdown"]) == 0
    table = README.split("--markdown -->\n")[1].split("\n<!--")[0]
    assert table == capsys.readouterr().out.rstrip("\n"), "emu2-lit recipes --markdown prints the table"


@pytest.fixture
def stranger(tmp_path, monkeypatch):
    """An empty folder with a stranger's own data, and a hub that has a small Emu2-Chat."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    Image.radial_gradient("L").convert("RGB").save(tmp_path / "photos" / "cat.jpg")
    Image.radial_gradient("L").convert("RGB").save(tmp_path / "photo.jpg")
    sample = json.loads(re.search(r"```json\n(.*?)```", README, re.DOTALL).group(1))
    (tmp_path / "my_chats.json").write_text(json.dumps([sample] * 8))
    (tmp_path / "instances.json").write_text(json.dumps(INSTANCES))
    config = Emu2Config.preset("tiny").with_role_tokens()
    model = Emu2ForConditionalGeneration(config)
    model.save_pretrained(tmp_path / "published", processor=Emu2Processor.for_config(config))
    with hub(tmp_path / "published", "BAAI/Emu2-Chat") as (endpoint, _):
        from huggingface_hub import constants

        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "ENDPOINT", endpoint)
        template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        yield tmp_path


def in_order(lines: list[list[str]]) -> list[list[str]]:
    """The weights are fetched before they are tuned, though the README tells of it afterwards."""
    return sorted(lines, key=lambda words: words[1] != "weights")


def test_every_command_runs(stranger, capsys, episodes, drawings):
    prepare(stranger / "data" / "digits")
    (stranger / "data" / "episodes").symlink_to(episodes)
    (stranger / "data" / "drawings").symlink_to(drawings)
    question = json.loads(re.findall(r"```json\n(.*?)```", README, re.DOTALL)[1])
    questions = [question]
    for number in range(2, 8):
        Image.new("RGB", (64, 48), (30 * number, 0, 0)).save(stranger / "photos" / f"{number}.png")
        questions.append({**question, "id": str(number), "image": f"photos/{number}.png"})
    (stranger / "my_questions.jsonl").write_text("\n".join(map(json.dumps, questions)))
    assert main(["fit", "quickstart/chat", *FEW_STEPS, "model.weights=published"]) == 0
    lines = [words for words in commands() if words[0].endswith("emu2-lit")]
    assert {words[1] for words in lines} == {"chat", "data", "fit", "weights", "export", "evaluate", "plan", *CLUSTER}
    for words in in_order(lines):
        few = FEW_STEPS + ["evaluation.benchmarks.0.limit=20"] * ("quickstart/in_context" in words)
        few = FEW_DRAWINGS if "quickstart/generation" in words else few
        arguments = words[1:] + {"fit": few, "evaluate": ["evaluation.num_beams=1"]}.get(words[1], [])
        arguments += ["--dry-run"] * (words[1] == "submit")
        assert main(arguments) == (2 if words[1] == "stop" else 0), (words, capsys.readouterr())  # the run has ended
    for made in ("my-emu2-chat/config.json", "my-emu2-chat.safetensors", "my-adapter/adapter_config.json"):
        assert (stranger / made).is_file(), made


def test_the_python_example_runs(stranger):
    prepare(stranger / "data" / "digits")
    example = re.search(r"```python\n(.*?)```", README, re.DOTALL).group(1)
    names: dict = {}
    exec(example.replace("max_steps=20", "max_steps=2, logger=False, enable_checkpointing=False"), names)  # noqa: S102
    assert names["tuning"].global_step == 2
