"""`data check`: counts, lengths, every bad sample, and what is learned."""

import json

import pytest


@pytest.fixture
def llava(tmp_path, picture):
    """Writes a LLaVA file of so many good samples and some with a missing picture."""

    def write(good: int, bad: int = 0):
        records = [
            {
                "id": f"sample-{number}",
                "image": picture.name if number < good else "absent.png",
                "conversations": [
                    {"from": "human", "value": "<image>\nwhich digit?"},
                    {"from": "gpt", "value": "seven"},
                ],
            }
            for number in range(good + bad)
        ]
        path = tmp_path / "chats.json"
        path.write_text(json.dumps(records))
        return path

    return write


def test_report(emu2_lit, llava):
    status, out, _ = emu2_lit("data", "check", llava(good=3))
    assert status == 0
    assert "good samples: 3 of 3" in out and "images: 3" in out
    assert "⟦" in out and "seven" in out


def test_bad_samples_are_named(emu2_lit, llava):
    status, out, _ = emu2_lit("data", "check", llava(good=3, bad=1))
    assert status == 2
    assert "sample-3" in out and "absent.png" in out


def test_json(emu2_lit, llava):
    report = json.loads(emu2_lit("data", "check", llava(good=3, bad=1), "--json", "--show", "1")[1])
    assert (report["good"], report["bad_count"], len(report["examples"])) == (3, 1, 1)
    assert report["bad"][0]["id"] == "sample-3"


def test_missing_file(emu2_lit):
    status, _, err = emu2_lit("data", "check", "absent.json")
    assert status == 2 and "absent.json" in err and "Traceback" not in err


def test_unknown_format_and_preset(emu2_lit, llava):
    status, _, err = emu2_lit("data", "check", llava(good=1), "--format", "lava")
    assert status == 2 and "llava" in err
    status, _, err = emu2_lit("data", "check", llava(good=1), "--preset", "huge")
    assert status == 2 and "emu2-chat" in err


def test_documents_for_an_objective(emu2_lit, tmp_path, picture):
    document = {"images": [picture.name, None], "texts": [None, "A seven."]}
    path = tmp_path / "documents.jsonl"
    path.write_text(json.dumps(document))
    report = json.loads(emu2_lit("data", "check", path, "--json")[1])
    unified = json.loads(emu2_lit("data", "check", path, "--objective", "unified", "--json")[1])
    assert report["good"] == unified["good"] == 1
    assert unified["learned_tokens"] > report["learned_tokens"]


def test_pictures_alone_are_counted_for_the_decoder(emu2_lit, llava):
    status, out, _ = emu2_lit("data", "check", llava(good=2), "--objective", "decoder")
    assert status == 0
    assert "images: 2" in out and "seven" not in out
