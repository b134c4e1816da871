"""`data convert`: grounded samples from an annotation file made by hand, and what they show."""

import json

import numpy as np
import pytest
from PIL import Image
from skimage import data as pictures

from datamodules.coco import caption_of_names
from datamodules.sources import Source
from emu2_lit.samples.drawn import SubjectCrop
from emu2_lit.samples.encoding import read_picture
from emu2_lit.samples.masks import Polygons, RunLengths
from emu2_lit.settings import SourceSettings

TRIANGLE = [0, 0, 300, 0, 0, 400]
RUNS = {"size": [4, 6], "counts": [12, 12]}  # the right half of 6 x 4
GOOD = {"image_id": 7, "category_id": 3}


def box(*bbox, **columns):
    return {**GOOD, "bbox": list(bbox), **columns}


OBJECTS = [
    box(0, 0, 300, 400, segmentation=[TRIANGLE]),
    box(0, 0, 600, 400, segmentation=RUNS, category_id=4),
    box(500, 300, 200, 100, segmentation=[[1, 2]]),  # over the border; its mask is damaged
    box(0, 0, 300, 400, iscrowd=1, segmentation=RUNS),
    box(0, 0, 20, 20),
    box(0, 0, 0, 20),
    box(0, 0, "a", 20),
    box(0, 0, float("nan"), 20),
    box(0, 0, 300, 400, category_id=99),
    "no object",
    {"image_id": [7]},
    box(0, 0, 300, 400, category_id=[3]),
]


@pytest.fixture
def coco(tmp_path):
    """Writes an annotation file of pictures 7 (there), 8 (without objects) and 9 (not there)."""
    (tmp_path / "photos").mkdir()
    for name in ("coffee.png", "empty.png"):
        Image.fromarray(pictures.coffee()).save(tmp_path / "photos" / name)

    def write(objects=OBJECTS, **columns):
        size = {"width": 600, "height": 400}
        names = {7: "coffee.png", 8: "empty.png", 9: "absent.png"}
        content = {
            "images": [{"id": id, "file_name": name, **size} for id, name in names.items()] + [{"id": 10}],
            "annotations": objects,
            "categories": [{"id": 3, "name": "cup"}, {"id": 4, "name": "dining table"}],
        }
        path = tmp_path / "instances.json"
        path.write_text(json.dumps(content | columns))
        return path

    return write


def test_what_is_written_and_what_is_left_out(emu2_lit, coco, tmp_path):
    arguments = ["data", "convert", coco(), "--images", "photos", "--out", "grounded.jsonl"]
    status, out, _ = emu2_lit(*arguments)
    assert status == 0
    assert sorted(out.splitlines()) == [
        "grounded.jsonl: 1 samples with 3 objects, 2 of them with a mask",
        "left out: 1 masks that are damaged; their objects have a box alone",
        "left out: 1 objects smaller than 0.01 of their picture",
        "left out: 1 objects that are crowds",
        "left out: 1 pictures that are not in the folder",
        "left out: 1 pictures without an object that is used",
        "left out: 1 pictures without id, file_name, width or height",
        "left out: 2 annotations of no picture in the list",
        "left out: 2 objects without a known category",
        "left out: 3 objects with a box that is damaged or outside its picture",
    ]
    (record,) = map(json.loads, (tmp_path / "grounded.jsonl").read_text().splitlines())
    assert (record["id"], record["image"]) == ("7", "photos/coffee.png")
    assert record["caption"] == "a photo of a dining table and a cup"
    (sample,) = [Source(SourceSettings("grounded.jsonl"))[place] for place in range(1)]
    table, cup, part = [one.value for one in sample.parts[1:-1]]
    assert (table.phrase, table.box, table.span) == ("dining table", (0, 0, 1, 1), (13, 25))
    assert table.picture.mask == RunLengths((12, 12), 6, 4)
    assert (cup.phrase, cup.box, cup.span) == ("cup", (0, 0, 0.5, 1), (32, 35))
    assert cup.picture.mask == Polygons(((0, 0, 0.5, 0, 0, 1),))
    assert part.picture == SubjectCrop(sample.parts[-1].value, (0.8333, 0.75, 1, 1)) and part.span is None
    status, out, _ = emu2_lit(*arguments, "--min-share", "0.5")
    assert "1 samples with 2 objects" in out


def test_masks_cover_what_they_should(emu2_lit, coco):
    emu2_lit("data", "convert", coco(), "--images", "photos", "--out", "grounded.jsonl")
    sample = Source(SourceSettings("grounded.jsonl"))[0]
    black = (0, 0, 0)
    for part, own in zip(sample.parts[1:3], (lambda x, y: x >= 300, lambda x, y: x / 300 + y / 400 < 1), strict=True):
        crop = part.value.picture
        shown = np.array(read_picture(SubjectCrop(crop.source, crop.corners, crop.mask, black)))
        rows, columns = np.indices(shown.shape[:2])
        expected = pictures.coffee()[: shown.shape[0], : shown.shape[1]] * own(columns, rows)[..., None]
        assert (shown == expected).all(axis=2).mean() > 0.99


def test_captions(emu2_lit, coco, tmp_path):
    texts = [{"image_id": 7, "caption": " A cup\non a dining table. "}, {"image_id": 7, "caption": "other"}, {"x": 1}]
    (tmp_path / "captions.json").write_text(json.dumps({"annotations": texts}))
    arguments = ["data", "convert", coco(), "--images", "photos", "--out", "deep/grounded.jsonl"]
    assert emu2_lit(*arguments, "--captions", "captions.json")[0] == 0
    sample = Source(SourceSettings("deep/grounded.jsonl"))[0]
    assert sample.parts[0].value == "A cup on a dining table."
    assert [part.value.span for part in sample.parts[1:-1]] == [(11, 23), (2, 5), None]
    assert read_picture(sample.parts[-1].value).size == (600, 400)  # by its whole path: it is not beside the file


def test_mistakes(emu2_lit, coco, tmp_path):
    def refusal(path, *arguments):
        status, _, err = emu2_lit("data", "convert", path, "--images", "photos", "--out", "out.jsonl", *arguments)
        assert status == 2 and "Traceback" not in err and not list(tmp_path.glob("out.jsonl*"))
        return err

    good = coco()
    assert "absent.json: cannot be read (No such file" in refusal("absent.json")
    (tmp_path / "damaged.json").write_text(good.read_text()[:200])
    assert "damaged.json is not valid JSON" in refusal("damaged.json")
    (tmp_path / "list.json").write_text("[1]")
    assert "list.json is no annotation file of COCO: it has no list images, annotations" in refusal("list.json")
    assert "--images nowhere: no such folder" in refusal(good, "--images", "nowhere")
    (tmp_path / "empty.json").write_text('{"annotations": [{}]}')
    assert "empty.json holds no captions" in refusal(good, "--captions", "empty.json")
    (tmp_path / "taken").write_text("x")
    status, _, err = emu2_lit("data", "convert", good, "--images", "photos", "--out", "taken/out.jsonl")
    assert status == 2 and "--out taken/out.jsonl: cannot be written" in err
    nothing = refusal(coco(objects=[box(0, 0, 1, 1)]))
    assert "no sample can be made of it" in nothing and "1 objects smaller than" in nothing


def test_captions_made_of_names():
    assert caption_of_names(["dog"]) == "a photo of a dog"
    assert caption_of_names(["dog", "apple", "dog", "cat"]) == "a photo of a dog, an apple and a cat"
