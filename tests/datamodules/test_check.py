import json

from PIL import Image

from datamodules.check import check
from emu2_lit.settings import SourceSettings


def test_report_counts_lengths_bad_samples_and_examples(processor, chat_file):
    report = check([SourceSettings(chat_file(count=10, broken={3, 7}), name="mine")], processor, examples=2)
    assert (report.samples, report.good, report.images, report.learned_turns) == (10, 8, 8, 8)
    assert [entry["id"] for entry in report.bad] == ["s3", "s7"]
    assert all(entry["source"] == "mine" and "missing.png" in entry["reason"] for entry in report.bad)
    assert report.lengths["p0"] <= report.lengths["p50"] <= report.lengths["p100"]
    assert 0 < report.learned_share < 0.5
    assert [example["id"] for example in report.examples] == ["s0", "s1"]
    assert "⟦ seven</s>⟧" in report.examples[0]["text"]
    plain = json.loads(json.dumps(report.to_dict()))
    assert plain["bad_count"] == 2 and plain["sources"] == {"mine": 10}


def test_text_report_says_what_it_leaves_out(processor, chat_file):
    report = check([SourceSettings(chat_file(count=10, broken=range(5)))], processor)
    text = report.text(limit=2)
    assert "good samples: 5 of 10, bad: 5" in text
    assert "... and 3 more" in text and "missing.png" in text


def test_notes_tell_what_samples_lose(processor, tmp_path):
    turns = [{"from": "gpt", "value": "hello"}]
    for _ in range(3):
        turns += [{"from": "human", "value": "which digit?"}, {"from": "gpt", "value": "seven"}]
    path = tmp_path / "a.json"
    path.write_text(json.dumps([{"conversations": turns}]))
    whole = check([SourceSettings(str(path))], processor)
    assert [entry["note"] for entry in whole.notes] == ["1 leading assistant turn(s) left out"]
    short = check([SourceSettings(str(path))], processor, max_length=whole.lengths["p50"] - 1)
    assert short.truncated == 1 and "trailing turns do not fit" in short.notes[-1]["note"]


def test_a_broken_line_is_listed_with_its_number(processor, tmp_path):
    good = json.dumps({"conversations": [{"from": "human", "value": "a?"}, {"from": "gpt", "value": "b"}]})
    (tmp_path / "a.jsonl").write_text(f"{good}\n{{broken\n{good}\n")
    report = check([SourceSettings(str(tmp_path / "a.jsonl"))], processor)
    assert report.good == 2
    assert [entry["id"] for entry in report.bad] == ["line 2"]


def test_nothing_good_is_a_report_and_no_crash(processor, chat_file):
    report = check([SourceSettings(chat_file(count=2, broken={0, 1}))], processor)
    assert (report.good, report.lengths, report.learned_share) == (0, {}, 0.0)
    assert "bad: 2" in report.text()


def test_documents_are_shown_as_an_objective_learns_them(processor, tmp_path):
    Image.new("L", (16, 16), 128).save(tmp_path / "a.png")
    record = {"images": ["a.png", None] * 9, "texts": [None, "which digit?"] * 9}
    (tmp_path / "a.jsonl").write_text(json.dumps(record))
    settings = SourceSettings(str(tmp_path / "a.jsonl"), image_first=1.0)
    text, unified = (check([settings], processor, learn_pictures=learn) for learn in (False, True))
    assert text.images == unified.images == 8
    assert [entry["note"] for entry in unified.notes] == ["left out: 1 of 9 pictures"]
    slots = f"<image>*{processor.n_query}"
    assert f"[IMG]{slots}[/IMG]⟦" in text.examples[0]["text"] and f"⟦[IMG]{slots}⟧" not in text.examples[0]["text"]
    assert f"⟦[IMG]{slots}⟧[/IMG]⟦" in unified.examples[0]["text"]
    short = check([settings], processor, max_length=text.lengths["p50"] // 2)
    assert (short.good, short.bad) == (1, []) and 0 < short.images < 8
