"""`evaluate` of benchmarks that draw: the published table beside ours, what is left, going on, what is refused."""

import json
from pathlib import Path

import pytest

from emu2_lit.model import Emu2ForConditionalGeneration, Emu2Processor
from emu2_lit.run.decoder import open_decoder
from tests.evaluation.drawing_cases import dreambench_folder, dreambench_plus_folder

pytest.importorskip("diffusers", reason="the visual decoder's library is not installed (extra `generation`)")
RECIPE = """
model: {{weights: {weights}, decoder: tiny, dtype: float32}}
evaluation:
  benchmarks:
    - {{name: dreambench, path: dreambench, limit: 3}}
  grid: 2
drawing: {{steps: 2}}
run: {{dir: result}}
trainer: {{accelerator: cpu}}
"""


@pytest.fixture
def recipe(tmp_path, weights):
    dreambench_folder(tmp_path / "dreambench")
    (tmp_path / "mine.yaml").write_text(RECIPE.format(weights=weights))
    return tmp_path / "mine.yaml"


def drawn(folder: Path) -> dict[str, int]:
    files = (folder / "result" / "drawings").rglob("*.png")
    return {path.relative_to(folder / "result").as_posix(): path.stat().st_mtime_ns for path in files}


def test_the_published_table_stands_beside_ours(emu2_lit, recipe, tmp_path):
    status, out, _ = emu2_lit("evaluate", recipe)
    lines = out.splitlines()
    assert status == 0
    assert lines[0] == "dreambench: 3 prompts, 12 pictures, compared with the one picture shown"
    assert lines[1].split() == ["dino", "clip_i", "clip_t", "embedding_cosine", "diversity"]
    rows = {line[:23].strip(): line[23:].split() for line in lines[2:13]}
    assert rows["Emu2-Gen (one picture)"] == ["0.766", "0.850", "0.287", "-", "-"]
    assert rows["real pictures"] == ["0.774", "0.885", "-", "-", "-"]
    assert rows["this model"][:3] == ["-"] * 3 and -1 <= float(rows["this model"][3]) <= 1
    assert "left out: dino (evaluation.encoders.dino names no weights)" in lines
    summary = json.loads((tmp_path / "result" / "summary.json").read_text())
    assert f"{summary['generation/dreambench/embedding_cosine']:.3f}" == rows["this model"][3]
    assert summary["drawings"][0]["compared_with"] == "the one picture shown"
    assert len(drawn(tmp_path)) == 12
    page = (tmp_path / "result" / "report.html").read_text()
    assert "Kosmos-G (one picture)" in page and page.count("data:image/png;base64") == 1


def test_a_killed_evaluation_goes_on_picture_by_picture(emu2_lit, recipe, tmp_path):
    first = json.loads(emu2_lit("evaluate", recipe, "--json")[1])
    before = drawn(tmp_path)
    gone = sorted(before)[5]
    (tmp_path / "result" / gone).unlink()
    again = json.loads(emu2_lit("evaluate", recipe, "--json")[1])
    after = drawn(tmp_path)
    assert [name for name in before if before[name] != after[name]] == [gone]
    assert again[0]["figures"] == pytest.approx(first[0]["figures"], abs=1e-3)


def test_other_settings_are_drawn_anew_and_other_references_are_not(emu2_lit, recipe, tmp_path):
    emu2_lit("evaluate", recipe)
    _, out, _ = emu2_lit("evaluate", recipe, "evaluation.benchmarks.0.split=all")
    assert out.startswith("dreambench_all: 3 prompts, 12 pictures, compared with all real pictures")
    assert len(drawn(tmp_path)) == 12
    emu2_lit("evaluate", recipe, "drawing.steps=1")
    assert len(drawn(tmp_path)) == 24


def test_questions_and_drawings_in_one_evaluation(emu2_lit, recipe, tmp_path):
    record = {"id": 1, "image": "dreambench/dataset/cat/00.jpg", "question": "what?", "answers": ["cat"]}
    (tmp_path / "mine.jsonl").write_text(json.dumps(record))
    asked = ["evaluation.benchmarks.1.name=custom", "evaluation.benchmarks.1.path=mine.jsonl", "evaluation.shots=[0]"]
    status, out, _ = emu2_lit("evaluate", recipe, *asked, "evaluation.num_beams=1")
    assert status == 0 and "mine" in out.split("\n\n")[0] and out.split("\n\n")[1].startswith("dreambench:")
    summary = json.loads((tmp_path / "result" / "summary.json").read_text())
    assert {"in_context/mine/shots_0", "generation/dreambench/diversity"} <= summary.keys()


def test_dreambench_plus_leaves_its_samples(emu2_lit, recipe, tmp_path):
    dreambench_plus_folder(tmp_path / "plus")
    asked = ["evaluation.benchmarks=[{name: dreambench_plus, path: plus}]"]
    assert emu2_lit("evaluate", recipe, *asked)[0] == 0
    samples = tmp_path / "result" / "samples" / "mine"
    assert len(list(samples.glob("tgt_image/*/*.jpg"))) == len(list(samples.glob("text/*/*.txt"))) == 4


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("model.decoder=null", "model.decoder: say what draws"),
        ("model.decoder=./gone", "model.decoder: no such file or folder: ./gone"),
        ("evaluation.encoders.dino=./nothing", "nothing"),
        ("evaluation.encoders.inception=./nothing", "no such file or folder: ./nothing"),
        ("evaluation.benchmarks.0.split=two", "neither `one` nor `all`"),
        ("drawing.height=57", "height=57"),
        ("drawing.steps=0", "drawing.steps: expected at least 1"),
    ],
)
def test_mistakes_are_one_message(emu2_lit, recipe, override, told):
    status, _, err = emu2_lit("evaluate", recipe, override)
    assert status == 2 and told in err and "Traceback" not in err


def test_a_folder_of_a_decoder(emu2_lit, tmp_path, weights):
    decoder = open_decoder("tiny")
    decoder.save_pretrained(tmp_path / "gen")
    Emu2ForConditionalGeneration.from_pretrained(weights).save_pretrained(
        tmp_path / "gen", processor=Emu2Processor.from_pretrained(weights)
    )
    dreambench_folder(tmp_path / "dreambench", {"cat": "cat"})
    (tmp_path / "mine.yaml").write_text(RECIPE.format(weights=tmp_path / "gen"))
    status, out, err = emu2_lit("evaluate", "mine.yaml", f"model.decoder={tmp_path / 'gen'}")
    assert status == 0, err
