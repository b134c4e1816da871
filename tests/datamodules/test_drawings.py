"""Digits to draw: the split by image, the boxes, nothing written twice."""

import json

import numpy as np
from PIL import Image

from datamodules.digits import held_out
from datamodules.drawings import GRID, PLACES, SIDES, prepare
from datamodules.importers import captions, grit


def lines(folder, name):
    return [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().splitlines()]


def test_no_held_out_picture_is_learned(drawings):
    for split in ("train", "val"):
        for name in ("digits", "canvases", "captions"):
            indexes = {int(row["id"].split("_")[1]) for row in lines(drawings, f"{name}_{split}")}
            assert indexes and all(held_out(index) == (split == "val") for index in indexes)
    assert len(lines(drawings, "canvases_train")) == PLACES["train"] * len(lines(drawings, "digits_train"))


def test_all_ink_of_a_canvas_lies_in_its_box(drawings):
    for row in lines(drawings, "canvases_val")[:50]:
        grey = np.asarray(Image.open(drawings / row["image"]), dtype=float)
        x1, y1, x2, y2 = (round(edge * 56) for edge in row["ref_exps"][0][2:6])
        assert x2 - x1 == y2 - y1 and x2 - x1 in SIDES and x1 % GRID == y1 % GRID == 0
        assert grey[y1:y2, x1:x2].sum() == grey.sum() > 0
        assert row["ref_exps"][0][:2] == [0, len(row["caption"])]


def test_formats_are_known(drawings):
    assert grit.detect(lines(drawings, "canvases_train")[0])
    assert captions.detect(lines(drawings, "digits_train")[0]) and captions.detect(lines(drawings, "captions_val")[-1])


def test_a_second_call_writes_nothing(drawings):
    before = (drawings / "digits_val.jsonl").stat().st_mtime_ns
    assert prepare(drawings) == drawings
    assert (drawings / "digits_val.jsonl").stat().st_mtime_ns == before
