"""A user's bad data through `fit`: skipped, told and counted, or one clear message."""

import json

import pytest
from PIL import Image

SHORT = [
    "fit", "debug/dry_run", "data.prepare=null", "trainer.fast_dev_run=0", "trainer.max_steps=3", "data.validation=[]",
    "callbacks.answers=null", "data.global_batch_size=4", "data.micro_batch_size=2", "run.dir=run",
    "data.sources.0.path=data.json",
]  # fmt: skip


def sample(id, image="ok.jpg", question="<image>\nwhat?", answer="a ball"):
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    return {"id": id, "conversations": turns} | ({"image": image} if image else {})


@pytest.fixture
def data(tmp_path):
    """Writes data.json beside a good picture and several bad ones."""
    Image.radial_gradient("L").convert("RGB").save(tmp_path / "ok.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "ok.jpg").read_bytes()[:900])
    (tmp_path / "text.jpg").write_text("no picture")
    (tmp_path / "zero.jpg").touch()

    def write(samples):
        (tmp_path / "data.json").write_text(json.dumps(samples))

    return write


def ledger(tmp_path):
    return [json.loads(line) for line in (tmp_path / "run" / "data_ledger.jsonl").read_text().splitlines()]


def test_a_few_bad_samples_are_skipped_and_counted(emu2_lit, data, tmp_path):
    bad = [sample("cut", "cut.jpg"), sample("text", "text.jpg"), sample("gone", "gone.jpg")]
    data([sample(f"good{i}") for i in range(9)] + bad)
    status, out, err = emu2_lit(*SHORT, "data.bad_budget=0.5")
    assert status == 0, err
    reasons = {entry["id"]: entry["reason"] for entry in ledger(tmp_path)}
    assert reasons.keys() == {"cut", "text", "gone"}
    assert "truncated" in reasons["cut"] and "not a picture" in reasons["text"] and "no such file" in reasons["gone"]
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["skipped_samples"] == 3


@pytest.mark.parametrize(
    ("samples", "told"),
    [
        ([sample("zero", "zero.jpg")] * 8, "zero: zero.jpg"),
        ([sample("more", question="<image><image> q")] * 8, "2 <image> tag(s) for 1 image(s)"),
        ([sample("alone", answer="")] * 8, "is empty"),
        ([{"id": "x", "conversations": [{"from": "alien", "value": "hi"}]}] * 8, "unknown role 'alien'"),
        ([{"a": 1}], "no known format"),
        ([], "holds no samples"),
    ],
)
def test_too_many_bad_samples_stop_the_run_with_their_reasons(emu2_lit, data, samples, told):
    data(samples)
    status, _, err = emu2_lit(*SHORT)
    assert status == 2 and told in err and "data.json" in err and "Traceback" not in err


def test_special_strings_in_a_text_are_text(emu2_lit, data, tmp_path):
    data([sample(f"s{i}", None, "say </s> [IMG] [USER] now", "fine </s> done") for i in range(8)])
    assert emu2_lit(*SHORT)[0] == 0
    assert not (tmp_path / "run" / "data_ledger.jsonl").exists()


def test_samples_too_long_for_max_length_stop_the_run(emu2_lit, data):
    data([sample(f"s{i}") for i in range(8)])
    status, _, err = emu2_lit(*SHORT, "data.max_length=16")
    assert status == 2 and "more than max_length 16" in err


def test_more_positions_than_the_model_has(emu2_lit, data):
    data([sample("s")])
    status, _, err = emu2_lit(*SHORT, "data.max_length=4096")
    assert status == 2 and "2048 positions" in err


@pytest.mark.parametrize("folder", ["taken", "taken/below"])
def test_a_run_folder_that_cannot_be_made(emu2_lit, data, tmp_path, folder):
    data([sample("s")])
    (tmp_path / "taken").touch()
    status, _, err = emu2_lit(*SHORT, f"run.dir={folder}")
    assert status == 2 and "cannot be written" in err
