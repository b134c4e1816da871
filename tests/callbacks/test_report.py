import json
import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest
from lightning import Callback
from PIL import Image

from callbacks import Report, write_report
from callbacks.curves import chart, short_number
from tests.callbacks.toy import ACCUMULATION, Batches, ToyModule, make_trainer


class Score(Callback):
    """Stands for the callback that answers questions."""

    def on_train_start(self, trainer, pl_module):
        trainer.callback_metrics["val/exact_match_base"] = 0.1

    def on_validation_epoch_end(self, trainer, pl_module):
        self.log("val/exact_match", trainer.global_step / 10)


def fit(folder, steps: int, *others, resume=None, **settings):
    trainer = make_trainer(folder, steps, *others, Report(folder), val_check_interval=2 * ACCUMULATION, **settings)
    trainer.fit(ToyModule(), Batches(steps), Batches(1), ckpt_path=resume)
    return trainer


def history(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def points(folder, name: str) -> dict[int, float]:
    return {record["step"]: record[name] for record in history(folder) if name in record}


def test_each_figure_is_kept_where_it_was_measured(tmp_path):
    fit(tmp_path, 4, Score())
    assert sorted(points(tmp_path, "train/loss")) == [1, 2, 3, 4]
    assert sorted(points(tmp_path, "val/loss")) == [2, 4]
    assert points(tmp_path, "val/exact_match") == pytest.approx({2: 0.2, 4: 0.4})
    assert points(tmp_path, "val/exact_match_base")[0] == pytest.approx(0.1)


def test_train_figures_come_as_often_as_they_are_logged(tmp_path):
    fit(tmp_path, 6, log_every_n_steps=3)
    assert sorted(points(tmp_path, "train/loss")) == [3, 6]


def test_a_resumed_run_keeps_its_curve_and_repeats_nothing(tmp_path):
    trainer = fit(tmp_path, 2)
    trainer.save_checkpoint(tmp_path / "two.ckpt")
    fit(tmp_path, 4)  # went on and was lost
    first = points(tmp_path, "train/loss")[2]
    fit(tmp_path, 4, resume=tmp_path / "two.ckpt")
    steps = [record["step"] for record in history(tmp_path) if "train/loss" in record]
    assert steps == sorted(set(steps)) and steps[-1] == 4
    assert points(tmp_path, "train/loss")[2] == first


def test_a_validation_after_the_fit_is_on_the_page_too(tmp_path):
    trainer = fit(tmp_path, 2)
    trainer.validate(ToyModule(), Batches(1), verbose=False)
    assert "val/loss" in (tmp_path / "report.html").read_text()


def test_a_dry_run_writes_nothing(tmp_path):
    fit(tmp_path / "run", 2, fast_dev_run=2)
    assert not (tmp_path / "run" / "report.html").exists() and not (tmp_path / "run" / "metrics.jsonl").exists()


def test_the_page_stands_alone_and_escapes_what_users_wrote(tmp_path):
    (tmp_path / "samples").mkdir()
    Image.new("RGB", (8, 8), "red").save(tmp_path / "samples" / "step=0000002.png")
    answer = dict(id="1", question="<script>alert(1)</script>", answer="a & b", prediction="<b>", correct=False)
    (tmp_path / "answers.jsonl").write_text(json.dumps(answer) + "\n")
    fit(tmp_path, 2, Score())
    page = (tmp_path / "report.html").read_text()
    assert "{{" not in page and "<script>" not in page and "&lt;script&gt;" in page
    assert not re.findall(r'(?:src|href)="(?!data:)', page)
    assert page.count("<svg") >= 2 and "data:image/png;base64," in page and "0 of 1 right" in page
    assert f"emu2-lit chat {tmp_path}" in page
    HTMLParser().feed(page)


def test_a_folder_without_anything_gives_a_page(tmp_path):
    assert write_report(tmp_path).read_text().startswith("<!doctype html>")


@pytest.mark.parametrize(
    "points",
    [[(0, 1.0)], [(1, 0.0), (2, 0.0)], [(1, 5.0), (2, float("nan")), (3, 4.0)], [(0, -1e-9), (1000, 3e8)],
     [(step, float(step)) for step in range(5000)]],
)  # fmt: skip
def test_a_chart_is_valid_svg_within_its_frame(points):
    tree = ElementTree.fromstring(chart({"train/loss": points, "a < b": [(0, 1.0)]}))
    lines = [element.get("points") for element in tree.iter() if element.tag.endswith("polyline")]
    assert len(lines) == 2
    for x, y in (map(float, pair.split(",")) for line in lines for pair in line.split()):
        assert 0 <= x <= 460 and 0 <= y <= 240
    assert max(len(line.split()) for line in lines) <= 801


def test_a_chart_of_nothing_is_empty():
    assert chart({}) == "" and chart({"x": [(1, float("inf"))]}) == ""


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (0.00012345, "0.0001234"), (12.5, "12.5"), (9876.0, "9876"), (12345.0, "12.35k"), (2.5e6, "2.5M")],
)
def test_short_numbers(value, text):
    assert short_number(value) == text


def test_the_untouched_model_stands_in_the_same_chart(tmp_path):
    lines = [{"step": 0, "in_context_base/names/shots_1": 0.5}, {"step": 2, "in_context/names/shots_1": 0.7}]
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))
    page = write_report(tmp_path).read_text()
    assert re.findall("<figcaption>(.*?)</figcaption>", page) == ["in_context/names/shots_1"]
    assert "in_context_base/names/shots_1: 0.5" in page


def test_figures_by_position_are_one_curve(tmp_path):
    names = [f"val/cosine_position_{place:02d}" for place in range(5)]
    lines = [{"step": step, **{name: step * place for place, name in enumerate(names)}} for step in (1, 2)]
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))
    page = write_report(tmp_path).read_text()
    assert re.findall("<figcaption>(.*?)</figcaption>", page) == ["val/cosine by position"]
    assert "val/cosine: 8" in page
