"""`evaluate`: scores, the page, submissions, going on, and what is refused."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

RECIPE = """
model: {{weights: {weights}, dtype: float32}}
evaluation:
  benchmarks:
    - {{name: custom, path: mine.jsonl}}
  shots: [0, 2]
  num_beams: 1
run: {{dir: result}}
trainer: {{accelerator: cpu}}
"""


@pytest.fixture
def recipe(tmp_path, weights):
    records = []
    for place in range(5):
        image = Image.new("RGB", (16, 16), (50 * place, 0, 0))
        image.save(tmp_path / f"{place}.png")
        record = {"id": place, "image": f"{place}.png", "question": "dark or light?", "answers": ["dark"]}
        records.append(record | {"choices": ["dark", "light"]})
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    (tmp_path / "mine.yaml").write_text(RECIPE.format(weights=weights))
    return tmp_path / "mine.yaml"


def test_scores_are_printed_and_kept(emu2_lit, recipe, tmp_path):
    status, out, _ = emu2_lit("evaluate", recipe)
    assert status == 0
    assert out.splitlines()[0].split() == ["benchmark", "shots", "items", "metric", "score", "95%", "interval", "paper"]
    summary = json.loads((tmp_path / "result" / "summary.json").read_text())
    assert summary.keys() >= {"in_context/mine/shots_0", "in_context/mine/shots_2"}
    items = [json.loads(line) for line in predictions(tmp_path, 0).read_text().splitlines() if line]
    right = sum(item["text"] == "dark" for item in items)
    assert len(items) == 5 and summary["in_context/mine/shots_0"] == right / 5
    page = (tmp_path / "result" / "report.html").read_text()
    assert page.count("data:image/png;base64") == 2 and "Episodes of mine" in page


def predictions(folder, shots):
    (found,) = (folder / "result" / "predictions" / "mine").glob(f"shots_{shots}-*/rank0.jsonl")
    return found


def test_a_killed_evaluation_goes_on(emu2_lit, recipe, tmp_path):
    first = json.loads(emu2_lit("evaluate", recipe, "--json")[1])
    path = predictions(tmp_path, 2)
    lines = [line for line in path.read_text().splitlines() if line]
    changed = {**json.loads(lines[0]), "text": "kept as it was"}
    path.write_text("\n".join([json.dumps(changed), *lines[1:3], lines[3][:20]]))
    again = json.loads(emu2_lit("evaluate", recipe, "--json")[1])
    texts = {json.loads(line)["id"]: json.loads(line)["text"] for line in path.read_text().splitlines() if _whole(line)}
    assert len(texts) == 5 and texts[changed["id"]] == "kept as it was"
    assert again[0] == first[0] and again[1]["items"] == 5


def _whole(line):
    try:
        return bool(json.loads(line))
    except ValueError:
        return False


def test_other_settings_are_answered_anew(emu2_lit, recipe, tmp_path):
    emu2_lit("evaluate", recipe)
    emu2_lit("evaluate", recipe, "evaluation.dialect=openflamingo")
    assert len(list((tmp_path / "result" / "predictions" / "mine").glob("shots_2-*"))) == 2


def test_shots_that_do_not_fit_are_said(emu2_lit, recipe, tmp_path):
    path = tmp_path / "mine.jsonl"
    path.write_text(path.read_text().replace("dark or light?", "dark or light? " * 90))
    status, out, _ = emu2_lit("evaluate", recipe, "evaluation.shots=[0,4]")
    _, short, long = out.splitlines()[:3]
    assert status == 0 and "does not fit" in long and "does not fit" not in short


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("evaluation.benchmarks.0.name=vqa2", "did you mean vqav2"),
        ("evaluation.benchmarks.0.path=gone", "no such file or folder: gone"),
        ("evaluation.benchmarks=[]", "data.sources: is empty"),
        ("evaluation.shots=[9]", "but only 4 demonstrations can be had"),
        ("evaluation.demonstrations=best", "expected one of random, fixed, rices"),
        ("model.weights=gone", "gone"),
    ],
)
def test_mistakes_are_one_message(emu2_lit, recipe, override, told):
    status, out, err = emu2_lit("evaluate", recipe, override)
    assert status == 2 and told in err and "Traceback" not in err


def test_two_processes_share_the_items(recipe, tmp_path):
    command = [sys.executable, "-m", "emu2_lit", "evaluate", recipe.name]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    told = {
        devices: subprocess.run(
            [*command, f"trainer.devices={devices}", f"run.dir=on{devices}", "--json"],
            cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300,
        )
        for devices in (1, 2)
    }  # fmt: skip
    assert [one.returncode for one in told.values()] == [0, 0], told[2].stderr
    assert json.loads(told[1].stdout) == json.loads(told[2].stdout)
    written = tmp_path.glob("on2/predictions/mine/shots_2-*/rank*.jsonl")
    assert sorted(path.read_text().count('"id"') for path in written) == [2, 3]


def test_an_evaluation_recipe_trains_nothing(emu2_lit, recipe):
    status, _, err = emu2_lit("fit", recipe)
    assert status == 2 and "data.sources" in err


def test_the_papers_figures_stand_beside_ours(emu2_lit, recipe, tmp_path):
    questions = [{"question_id": 1, "image_id": 3, "question": "what?"}]
    answers = [{"answer": "red", "answer_id": i} for i in range(10)]
    for split in ("train2014", "val2014"):
        (tmp_path / f"v2_OpenEnded_mscoco_{split}_questions.json").write_text(json.dumps({"questions": questions}))
        annotations = [{"question_id": 1, "image_id": 3, "answers": answers}]
        (tmp_path / f"v2_mscoco_{split}_annotations.json").write_text(json.dumps({"annotations": annotations}))
        (tmp_path / split).mkdir()
        Image.new("RGB", (9, 9), "red").save(tmp_path / split / f"COCO_{split}_000000000003.jpg")
    asked = ["evaluation.benchmarks.0.name=vqav2", "evaluation.benchmarks.0.path=.", "evaluation.shots=[0]"]
    status, out, _ = emu2_lit("evaluate", recipe, *asked, "evaluation.chat=false")
    assert status == 0 and out.splitlines()[1].split()[-1] == "33.5"
    submitted = json.loads((tmp_path / "result" / "submissions" / "shots_0" / "vqav2_val.json").read_text())
    assert [one["question_id"] for one in submitted] == [1]
