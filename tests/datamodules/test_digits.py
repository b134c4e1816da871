import json

import pytest
from PIL import Image

from datamodules.digits import QUESTIONS, SIZE, held_out, prepare


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return prepare(tmp_path_factory.mktemp("data") / "digits")


def read(folder, name):
    return json.loads((folder / name).read_text())


def indexes(records):
    return {int(record["image"][-8:-4]) for record in records}


def test_a_fifth_is_held_out_by_a_hash_that_never_changes():
    share = sum(held_out(index) for index in range(1797)) / 1797
    assert share == pytest.approx(0.2, abs=0.02)
    assert [index for index in range(30) if held_out(index)] == [0, 14, 22, 26]


def test_no_held_out_image_is_in_a_training_file(folder):
    for kind in ("captions", "chat"):
        train, val = indexes(read(folder, f"{kind}_train.json")), indexes(read(folder, f"{kind}_val.json"))
        assert all(held_out(index) for index in val) and not any(held_out(index) for index in train)
        assert len(train) + len(val) == 1797


def test_pictures_are_files_of_one_size(folder):
    for record in read(folder, "captions_val.json")[:20]:
        with Image.open(folder / record["image"]) as image:
            assert image.size == (SIZE, SIZE)


def test_conversations_ask_several_kinds_and_validation_asks_one(folder):
    train, val = read(folder, "chat_train.json"), read(folder, "chat_val.json")
    firsts = {chat["conversations"][0]["value"].removeprefix("<image>\n") for chat in train}
    assert firsts == set(QUESTIONS)
    assert {len(chat["conversations"]) for chat in train} == {4}
    assert {len(chat["conversations"]) for chat in val} == {2}
    counts = [sum(chat["conversations"][0]["value"].endswith(question) for chat in val) for question in QUESTIONS]
    assert min(counts) > len(val) / 8


def test_answers_are_true(folder):
    captions = {r["image"]: r["caption"].split()[-1] for r in read(folder, "captions_train.json")}
    follow = {
        "six": ("six", "even", "yes", "seven"),
        "nine": ("nine", "odd", "yes", "ten"),
        "four": ("four", "even", "no", "five"),
    }
    seen = set()
    for chat in read(folder, "chat_train.json"):
        word = captions[chat["image"]]
        for human, gpt in zip(chat["conversations"][::2], chat["conversations"][1::2], strict=True):
            place = list(QUESTIONS).index(human["value"].removeprefix("<image>\n"))
            if word in follow:
                assert gpt["value"] == follow[word][place]
                seen.add((word, place))
    assert len(seen) == 12


def test_preparing_twice_writes_once(folder):
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    prepare(folder)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()} == before


def test_an_interrupted_preparation_is_finished(folder, tmp_path):
    (tmp_path / "captions_train.json").write_text("[{")
    again = prepare(tmp_path)
    for name in ("captions_train.json", "chat_val.json", "done.json"):
        assert (again / name).read_bytes() == (folder / name).read_bytes()
