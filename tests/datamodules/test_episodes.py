"""In-context episodes: what the classes are, what may be learned from, what each importer makes of a record."""

import json
import re
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from datamodules.context import Context
from datamodules.digits import SIZE, held_out, load_digits
from datamodules.episodes import EVALUATION_DIGITS, EVALUATION_NAMES, TRAINING_NAMES
from datamodules.importers import import_record
from emu2_lit.model import Emu2Config, Emu2Processor
from emu2_lit.samples.encoding import encode
from emu2_lit.samples.render import marked
from emu2_lit.samples.sample import BadSample

CONTEXT = Context(Path("."), "line 1")


def read(folder, name):
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def pictures(record):
    pairs = [*record.get("support", []), record.get("query", record)]
    return [pair["image"] for pair in pairs if "image" in pair]


def digits_of(name):
    return {int(digit) for digit in re.fullmatch(r"images/[a-z]+_(\d)(\d)(\d)(\d)_\d_\d+\.png", name).groups()}


@pytest.mark.parametrize("name", ["captions_train", "captions_val", "episodes_train", "episodes_val"])
def test_evaluation_classes_are_in_no_training_file(episodes, name):
    split = name.rsplit("_", 1)[1]
    used = {picture for record in read(episodes, f"{name}.jsonl") for picture in pictures(record)}
    assert used and all(picture.startswith(f"images/{split}_") for picture in used)
    assert not any(digits_of(picture) & set(EVALUATION_DIGITS) for picture in used)


def test_pictures_follow_the_split_by_image(episodes):
    _, labels = load_digits()
    for split, digit in (("val", 5), ("unseen", 4)):
        count = sum(label == digit and held_out(i) for i, label in enumerate(labels))
        assert len(list((episodes / "images").glob(f"{split}_{str(digit) * 4}_0_*.png"))) == count
    with Image.open(next((episodes / "images").iterdir())) as image:
        assert image.size == (SIZE, SIZE)


def test_the_evaluation_asks_for_unseen_classes_by_unseen_names(episodes):
    records = read(episodes, "fast_binding_2way.jsonl")
    assert len(records) >= 1000 and len({record["id"] for record in records}) == len(records)
    for record in records:
        names = Counter(pair["name"] for pair in record["support"])
        assert sorted(names.values()) == [4, 4] and record["query"]["name"] in names
        assert set(names) <= set(EVALUATION_NAMES) and not set(names) & set(TRAINING_NAMES)
        assert len(set(pictures(record))) == 9
        assert all(picture.startswith("images/unseen_") for picture in pictures(record))
        classes = {pair["name"]: digits_of(pair["image"]) for pair in record["support"]}
        assert digits_of(record["query"]["image"]) == classes[record["query"]["name"]]
    assert {digit for record in records for digit in digits_of(record["query"]["image"])} == set(EVALUATION_DIGITS)
    first = sum(record["support"][0]["name"] == record["query"]["name"] for record in records)
    last = sum(record["support"][-1]["name"] == record["query"]["name"] for record in records)
    assert 500 < first < 700 and 500 < last < 700  # neither place in the context tells the answer


def test_every_training_episode_can_be_answered(episodes):
    processor = Emu2Processor.for_config(Emu2Config.preset("tiny"))
    for name in ("episodes_train.jsonl", "text_episodes.jsonl"):
        for record in read(episodes, name)[:50]:
            assert record["query"]["name"] in {pair["name"] for pair in record["support"]}
            assert encode(import_record(record, Context(episodes, "line 1")), processor, 256).input_ids[0] == 1


def episode(*pairs):
    *support, query = [{"text": text, "name": name} for text, name in pairs]
    return {"support": support, "query": query}


def test_only_names_that_came_before_are_learned():
    processor = Emu2Processor.for_config(Emu2Config.preset("tiny"))
    sample = import_record(episode(("red", "dax"), ("blue", "wug"), ("red", "dax"), ("blue", "wug")), CONTEXT)
    assert marked(encode(sample, processor), processor) == "<s>red: dax. blue: wug. red:⟦ dax.⟧ blue:⟦ wug.</s>⟧"


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (episode(("red", "dax"), ("blue", "wug")), "none of the support's"),
        ({"support": [{"text": "red"}], "query": {"text": "red", "name": "dax"}}, "pairs with a name"),
        ({"support": [{"name": "dax"}], "query": {"text": "red", "name": "dax"}}, "an image must be"),
        ({"text": "  "}, "the text is empty"),
    ],
)
def test_what_cannot_be_read_is_said(record, message):
    with pytest.raises(BadSample, match=message):
        import_record(record, CONTEXT)
