"""What a careless or hostile user hands in: handled, or one clear message with exit status 2; never a traceback."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

SHORT = [
    "fit", "debug/dry_run", "data.prepare=null", "trainer.fast_dev_run=0", "trainer.max_steps=2", "data.validation=[]",
    "callbacks.answers=null", "callbacks.report=false", "data.global_batch_size=4", "data.micro_batch_size=2",
    "data.sources.0.path=data.json", "run.logger=[]", "run.dir=run",
]  # fmt: skip
HALF_EMOJI = "\ud83d"


def sample(id, image="ok.jpg", question="<image>\nwhat?", answer="a ball"):
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    return {"id": id, "conversations": turns} | ({"image": image} if image else {})


def write(name, content):
    Path(name).write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return name


@pytest.fixture
def good(emu2_lit):
    """Eight good samples in data.json, in the current folder."""
    Image.radial_gradient("L").convert("RGB").save("ok.jpg")
    return write("data.json", [sample(f"good{i}") for i in range(8)])


@pytest.fixture
def refused(emu2_lit):
    """Runs a command that must end in exit status 2 and one message, and returns the message."""

    def run(*arguments):
        status, out, err = emu2_lit(*arguments)
        assert status == 2, out + err
        assert "emu2-lit: " in err and "Traceback" not in err
        return err

    return run


@pytest.fixture
def check(emu2_lit, good):
    """`data check` of one file as its JSON report."""

    def run(name, content):
        _, out, err = emu2_lit("data", "check", write(name, content), "--json", "--show", "0")
        assert out, err
        return json.loads(out)

    return run


@pytest.mark.parametrize("content", [b"[" * 100_000, b"[" + b"9" * 5000 + b"]", b'[{"a": "caf\xe9"}]'])
def test_json_that_python_has_other_errors_for(refused, good, content):
    assert "data.json is not" in refused("data", "check", write("data.json", content))


@pytest.mark.parametrize("line", [b"[" * 100_000, b'{"id": ' + b"9" * 5000 + b"}", b'{"a": "caf\xe9"}', b'{"a": '])
def test_a_broken_line_is_one_bad_sample(check, line):
    report = check("data.jsonl", line + b"\n" + json.dumps(sample("good")).encode() + b"\r\n")
    assert report["good"] == 1
    assert [bad["id"] for bad in report["bad"]] == ["line 1"] and "line 1 is not" in report["bad"][0]["reason"]


def test_where_a_line_breaks_is_told_once(check):
    reason = check("data.jsonl", b'{"a": 1}\n{"a": \n')["bad"][1]["reason"]
    assert reason == "line 2 is not valid JSON: Expecting value at column 6"


@pytest.mark.parametrize("content", [b"[" * 100_000, b'{"messages": 5}', b'{"caption": ' + b"9" * 5000 + b"}"])
def test_broken_json_in_a_tar_is_a_bad_sample(check, content):
    packed = BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for name, data in (("a.jpg", Path("ok.jpg").read_bytes()), ("a.json", content)):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, BytesIO(data))
    assert [bad["id"] for bad in check("data.tar", packed.getvalue())["bad"]] == ["a"]


def test_samples_that_cannot_be_imported_are_called_by_their_own_id(check):
    report = check("data.json", [sample("mine", question="<image><image>"), {"conversations": 5}])
    assert [bad["id"] for bad in report["bad"]] == ["mine", "record 1"]


def test_a_phrase_that_is_no_text_is_bad(check):
    turns = [{"role": "user", "content": "<image>find <ref-object>"}, {"role": "assistant", "content": "there"}]
    report = check("data.json", [{"messages": turns, "images": ["ok.jpg"], "objects": {"ref": [None]}}])
    assert "no text" in report["bad"][0]["reason"]


def test_an_image_that_is_none_is_shown(check):
    assert "{'a': 1}" in check("data.json", [sample("x", {"a": 1})])["bad"][0]["reason"]


def test_half_an_emoji_passes_through_ledger_and_report(emu2_lit, good):
    bad = [sample(f"bad{HALF_EMOJI}{i}", f"gone{HALF_EMOJI}\u2028.jpg") for i in range(3)]
    write("data.json", [*bad, sample("good", answer="\udc00 yes")])
    assert emu2_lit(*SHORT, "data.bad_budget=1")[0] == 0
    entries = [json.loads(line) for line in Path("run/data_ledger.jsonl").read_text(encoding="utf-8").splitlines()]
    assert bad[0]["id"] in {entry["id"] for entry in entries}
    assert json.loads(Path("run/summary.json").read_text())["skipped_samples"] == len(entries)


def test_half_an_emoji_can_be_printed(good):
    write("data.json", [sample(f"bad{HALF_EMOJI}", "gone.jpg")])
    command = [sys.executable, "-m", "emu2_lit", "data", "check", "data.json"]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert ended.returncode == 2 and "bad\\ud83d: gone.jpg" in ended.stdout and not ended.stderr


def test_validation_is_held_to_the_budget_too(refused, good):
    write("val.json", [sample(f"v{i}", "gone.jpg") for i in range(3)])
    message = refused(*SHORT, "data.validation=[{path: val.json}]")
    assert "val.json: 3 of the 3 samples" in message and "v0: gone.jpg: no such file" in message


def test_bad_samples_in_workers(emu2_lit, good):
    write("data.json", [sample("bad", "gone.jpg"), *json.loads(Path("data.json").read_text())])
    status, _, err = emu2_lit(*SHORT, "data.workers=2", "trainer.max_steps=3")
    assert status == 0, err
    assert json.loads(Path("run/summary.json").read_text())["skipped_samples"] == 1


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("model=[]", "model: expected a section"),
        ("data.sources.0.limit=-4", "data.sources.0.limit: expected at least 1"),
        ("data.sources.0.num_frames=0", "data.sources.0.num_frames: expected at least 1"),
        ("trainer.accelerator=quantum", "accelerator=quantum"),
        ("trainer.devices=0", "devices=0"),
        ("trainer.devices=some", "devices=some"),
        ('run.dir="a\\0b"', "cannot be written"),
        ("resume=ok.jpg", "ok.jpg: not a checkpoint"),
        ("resume=.", "not a checkpoint"),
    ],
)
def test_recipes_with_impossible_values(refused, good, override, told):
    assert told in refused(*SHORT, override)


@pytest.mark.parametrize("damage", ["adapter_config.json", "adapter_model.safetensors", None])
def test_damaged_adapters(refused, good, weights, adapter, tmp_path, damage):
    copy = shutil.copytree(adapter, tmp_path / "adapter")
    if damage:
        (copy / damage).write_bytes((copy / damage).read_bytes()[:40])
    else:
        (copy / "adapter_model.safetensors").unlink()
    message = refused(*SHORT, "model.preset=null", f"model.weights={weights}", f"model.adapter={copy}")
    assert str(copy) in message


class TestRunFolders:
    @pytest.fixture
    def run(self, emu2_lit, good):
        """A finished run of two steps."""
        assert emu2_lit(*SHORT, "tuning.method=lora")[0] == 0
        return Path("run")

    def test_a_damaged_checkpoint(self, run, refused):
        checkpoint = run / "checkpoints" / "step=0000002.ckpt"
        whole = checkpoint.read_bytes()
        checkpoint.write_bytes(whole[: len(whole) // 2] + bytes(100) + whole[len(whole) // 2 + 100 :])
        shutil.make_archive("other", "zip", root_dir=".", base_dir="data.json")
        checkpoint.write_bytes(Path("other.zip").read_bytes())
        assert f"{checkpoint}: not a checkpoint" in refused(*SHORT, "tuning.method=lora", "trainer.max_steps=3")

    def test_another_rank(self, run, refused):
        message = refused(*SHORT, "tuning.method=lora", "tuning.lora.rank=3", "trainer.max_steps=3")
        assert "trained tensors" in message and "another run.dir" in message

    @pytest.mark.parametrize("summary", ["{cut", "{}", "[]"])
    def test_a_summary_that_cannot_be_used_is_written_anew(self, run, emu2_lit, summary):
        (run / "summary.json").write_text(summary)
        assert emu2_lit(*SHORT, "tuning.method=lora")[0] == 0
        assert json.loads((run / "summary.json").read_text())["steps"] == 2


def test_an_interrupt_before_the_first_step_exits_with_130(emu2_lit, good, monkeypatch):
    from callbacks import WhatTrains

    monkeypatch.setattr(WhatTrains, "on_fit_start", lambda *_: os.kill(os.getpid(), signal.SIGINT), raising=False)
    status, _, err = emu2_lit(*SHORT)
    assert status == 130 and "Traceback" not in err
