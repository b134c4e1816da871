"""Importers of what is to be drawn, each on files as users have them."""

import io
import json

import numpy as np
import pyarrow
import pytest
from PIL import Image
from pyarrow import parquet
from skimage import data as pictures
from webdataset import TarWriter

from datamodules.check import check
from datamodules.importers import import_record
from datamodules.masks import decompressed, read_mask
from datamodules.sources import Source
from emu2_lit.errors import UserError
from emu2_lit.model.subjects import Subject
from emu2_lit.samples.drawn import SideBySide, SubjectCrop
from emu2_lit.samples.encoding import read_picture
from emu2_lit.samples.masks import Polygons, RunLengths
from emu2_lit.samples.sample import BadSample, FileSlice, Part
from emu2_lit.settings import GenerationSettings, SourceSettings
from tests.datamodules.test_document_formats import jsonl, table, tar
from tests.datamodules.test_importers import CONTEXT, refused

SMALL = GenerationSettings(min_size=32)
CUP = [0.1, 0.1, 0.6, 0.9]
OUTLINE = [0.1, 0.1, 0.6, 0.1, 0.6, 0.9]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def encoded(content, form="png", size=(64, 48)):
    file = io.BytesIO()
    Image.fromarray(content).resize(size).save(file, form)
    return file.getvalue()


CAT, COFFEE, ROCKET = (encoded(content) for content in (pictures.chelsea(), pictures.coffee(), pictures.rocket()))


@pytest.fixture
def photos(tmp_path):
    """A folder with good pictures, a damaged and a tiny one."""
    for name, content in (("cat", CAT), ("coffee", COFFEE), ("rocket", ROCKET)):
        (tmp_path / f"{name}.png").write_bytes(content)
    (tmp_path / "damaged.png").write_bytes(CAT[:500])
    (tmp_path / "tiny.png").write_bytes(encoded(pictures.cat(), size=(31, 90)))
    return tmp_path


def imported(path, count=None, **settings):
    source = Source(SourceSettings(str(path), **settings))
    return [source[place] for place in range(count or len(source))]


def bad(path, processor, **settings):
    """The reasons by sample that generation tuning would skip."""
    report = check([SourceSettings(str(path), **settings)], processor, generation=SMALL)
    assert report.good + len(report.bad) == report.samples
    return {one["id"]: one["reason"] for one in report.bad}


def kinds(sample):
    return [part.kind for part in sample.parts]


def name(value):
    return value.rsplit("/", 1)[-1] if isinstance(value, str) else value.name.rsplit("/", 1)[-1]


class TestEdits:
    def row(self, **columns):
        return {"original_image": "cat.png", "edit_prompt": " make it a cup ", "edited_image": "coffee.png"} | columns

    def test_the_published_table(self, photos, processor):
        image = {"bytes": CAT, "path": None}
        path = table(photos / "edits.parquet", self.row(original_image=image, edited_image={**image, "bytes": COFFEE}))
        (sample,) = imported(path)
        assert sample.parts == (Part("image", CAT), Part("text", "make it a cup"), Part("image", COFFEE, learn=True))
        assert bad(path, processor) == {}

    def test_damaged_and_tiny_pictures_are_named(self, photos, processor):
        rows = [self.row(), self.row(edited_image="damaged.png"), self.row(edited_image="tiny.png")]
        rows += [self.row(original_image="tiny.png"), self.row(original_image="absent.png"), self.row(edit_prompt="")]
        reasons = bad(jsonl(photos / "edits.jsonl", *rows), processor)
        assert list(reasons) == ["line 2", "line 3", "line 5", "line 6"]
        assert "damaged.png: damaged or truncated" in reasons["line 2"]
        assert "tiny.png: 31x90 pixels are too few" in reasons["line 3"]
        assert "absent.png: no such file" in reasons["line 5"] and "the instruction is ''" in reasons["line 6"]

    @pytest.mark.parametrize("given", ["folder", "file"])
    def test_the_published_folder(self, photos, processor, given):
        folder = photos / "0000001"
        folder.mkdir()
        (folder / "prompt.json").write_text('{"input": "a cat", "edit": "make it a cup", "output": "a cup"}')
        for seed in (17, 4):
            (folder / f"{seed}_0.jpg").write_bytes(CAT), (folder / f"{seed}_1.jpg").write_bytes(COFFEE)
        (photos / "seeds.json").write_text('[["0000001", [17, 4]], ["0000002", [3]]]')
        path = photos if given == "folder" else photos / "seeds.json"
        sample = imported(path, 2)[1]
        assert sample.id == "0000001/4"
        assert [name(part.value) for part in sample.parts] == ["4_0.jpg", "make it a cup", "4_1.jpg"]
        reasons = bad(path, processor)
        assert list(reasons) == ["0000002/3"] and "prompt.json: No such file" in reasons["0000002/3"]

    def test_a_damaged_list_of_seeds_is_a_users_error(self, photos):
        (photos / "seeds.json").write_text('[["a", 3]]')
        with pytest.raises(UserError, match=r"seeds.json is not a list of \[folder, \[seed"):
            Source(SourceSettings(str(photos)))

    @pytest.mark.parametrize(
        "members",
        [
            {"original_image.png": CAT, "edited_image.png": COFFEE, "json": b'{"edit_prompt": "a cup"}'},
            {"0.png": CAT, "1.png": COFFEE, "json": b'{"edit_prompt": "a cup"}'},
            {"input_image.png": CAT, "edited_image.png": COFFEE, "txt": b"a cup"},
        ],
    )
    def test_tars(self, tmp_path, processor, members):
        path = tar(tmp_path / "edits.tar", s=members)
        (sample,) = imported(path)
        source, text, target = (part.value for part in sample.parts)
        assert (source.read(), text, target.read()) == (CAT, "a cup", COFFEE)
        assert bad(path, processor) == {}

    def test_other_names_and_what_is_missing(self):
        record = {"source_img": "a.png", "instruction": "x", "target_img": "b.png"}
        sample = import_record(record, CONTEXT)
        assert [part.value for part in sample.parts] == ["/data/a.png", "x", "/data/b.png"]
        refused({"original_image": "a.png", "edit_prompt": "x"}, "needs `edited_image`", "instructpix2pix")
        refused({"original_image": "a.png", "edited_image": "b.png", "edit_prompt": None}, "needs `edit_prompt`")


class TestSubjects200K:
    def row(self, **columns):
        both = Image.new("RGB", (48 + 2 * 64, 32 + 64))
        for place, content in enumerate((pictures.chelsea(), pictures.coffee())):
            both.paste(Image.fromarray(content).resize((64, 64)), (16 + place * 80, 16))
        file = io.BytesIO()
        both.save(file, "png")
        description = {"item": "cup", "description_0": "a cup on wood", "description_1": "a cup on grass"}
        scores = {"compositeStructure": 5, "objectConsistency": 5, "imageQuality": 5}
        image = {"bytes": file.getvalue(), "path": None}
        return {"image": image, "description": description, "quality_assessment": scores} | columns

    def test_both_directions(self, tmp_path, processor):
        path = table(tmp_path / "subjects.parquet", self.row())
        (sample,) = imported(path)
        for parts, right in ((sample.parts, True), (*sample.alternatives, False)):
            text, subject, target = (part.value for part in parts)
            assert (text, subject.phrase) == ("a cup on grass" if right else "a cup on wood", "cup")
            assert isinstance(target, SideBySide) and (target.right, subject.picture.right) == (right, not right)
        view = Image.fromarray(pictures.coffee()).resize((64, 64))
        assert np.array_equal(np.array(read_picture(sample.parts[-1].value)), np.array(view))
        assert bad(path, processor) == {}

    def test_pairs_of_low_quality_are_left_out(self, tmp_path, processor):
        poor = {"compositeStructure": 5, "objectConsistency": 3, "imageQuality": 5}
        rows = [self.row(), self.row(quality_assessment=poor), self.row(quality_assessment=None)]
        path = table(tmp_path / "subjects.parquet", *rows)
        assert len(imported(path)) == 3 and len(imported(path, min_quality=3)) == 2
        source = Source(SourceSettings(path, min_quality=5))
        assert (len(source), source.left_out, source.label(0)) == (1, 2, "row 0")
        text = check([source.settings], processor, generation=SMALL).text()
        assert "subjects.parquet: 1 samples (2 left out by min_quality)" in text
        shard = tmp_path / "a.tar"
        with TarWriter(str(shard)) as writer:
            for place, row in enumerate(rows):
                image, content = row["image"]["bytes"], {key: row[key] for key in ("description", "quality_assessment")}
                writer.write({"__key__": str(place), "png": image, "json": content})
        assert [sample.id for sample in imported(shard, min_quality=4)] == ["0"]
        lines = jsonl(tmp_path / "a.jsonl", *({**row, "image": "a.png"} for row in rows), "no record")
        assert len(Source(SourceSettings(lines, min_quality=5))) == 2  # what cannot be read is reported when drawn
        with pytest.raises(UserError, match="holds no samples"):
            Source(SourceSettings(path, min_quality=6))

    def test_damage(self, tmp_path, processor):
        broken = self.row(description={"item": "cup", "description_0": "x", "description_1": None})
        single = self.row(image={"bytes": CAT[:400], "path": None})
        reasons = bad(table(tmp_path / "subjects.parquet", self.row(), broken, single), processor)
        assert "`description_1` of the description is None" in reasons["row 1"]
        assert "damaged or truncated" in reasons["row 2"]


class TestOmniGen:
    def row(self, **columns):
        instruction = "<img><|image_2|></img> in front of <|image_1|>, at night"
        images = {"input_images": ["cat.png", "coffee.png"], "output_image": "rocket.png"}
        return {"task_type": "edit", "instruction": instruction, **images} | columns

    def test_pictures_stand_at_their_placeholders(self, photos, processor):
        plain = self.row(instruction="a rocket", input_images=None, output_images=["rocket.png"])
        del plain["output_image"]
        path = jsonl(photos / "omnigen.jsonl", self.row(), plain)
        first, second = imported(path)
        names = ["coffee.png", " in front of ", "cat.png", ", at night", "rocket.png"]
        assert [name(part.value) for part in first.parts] == names
        assert [part.learn for part in first.parts] == [False] * 4 + [True]
        assert [name(part.value) for part in second.parts] == ["a rocket", "rocket.png"]
        assert bad(path, processor) == {}

    @pytest.mark.parametrize(
        ("columns", "message"),
        [
            ({"input_images": ["cat.png"]}, r"places <\|image_2\|>, but there are 1 input_images"),
            ({"instruction": "<|image_1|> at night"}, "2 input_images, but the instruction places 1"),
            ({"instruction": None}, "the instruction is None"),
            ({"output_image": ["a.png", "b.png"]}, "one output_image, not 2"),
        ],
    )
    def test_damage(self, columns, message):
        refused(self.row(**columns), message)

    def test_tars(self, photos, processor):
        content = self.row(input_images=["a.png", "b.png"], output_image="c.png")
        path = tar(photos / "o.tar", s={"a.png": CAT, "b.png": COFFEE, "c.png": ROCKET, "json": content})
        (sample,) = imported(path)
        assert [part.value.read() for part in sample.parts if part.kind == "image"] == [COFFEE, CAT, ROCKET]


class TestSubjectFolder:
    @pytest.fixture
    def folder(self, photos):
        folder = photos / "colorful_cup2"
        folder.mkdir()
        for place, content in enumerate((COFFEE, CAT, ROCKET)):
            (folder / f"{place:02}.png").write_bytes(content)
        (folder / "01.txt").write_text("The colorful cup on a table\n")
        return folder

    def test_each_picture_is_drawn_from_the_others(self, folder, processor):
        samples = imported(folder)
        assert [sample.id for sample in samples] == [f"colorful_cup2/{name}.png" for name in ("00", "01", "02")]
        texts = ["a photo of the colorful cup", "The colorful cup on a table"]
        assert [sample.parts[0].value for sample in samples[:2]] == texts
        ways = (samples[1].parts, *samples[1].alternatives)
        assert [name(parts[1].value.picture) for parts in ways] == ["00.png", "02.png"]
        assert {name(parts[-1].value) for parts in ways} == {"01.png"}
        assert ways[0][1].value == Subject("the colorful cup", picture=str(folder / "00.png"), span=(0, 16))
        assert bad(folder, processor) == {}

    def test_a_noun_and_others_of_its_kind(self, folder, photos, processor):
        (photos / "prior").mkdir()
        (photos / "prior" / "a.png").write_bytes(ROCKET)
        samples = imported(folder, noun="mug", prior=str(photos / "prior"))
        assert samples[0].parts[0].value == "a photo of the mug"
        assert samples[1].parts[1].value.span is None  # "The colorful cup on a table" does not say it
        assert [name(part.value) for part in samples[3].parts] == ["a.png", "a photo of a mug"]
        assert bad(folder, processor, noun="mug", prior=str(photos / "prior")) == {}

    def test_hidden_files_are_no_pictures_of_the_subject(self, folder, processor):
        (folder / "._00.png").write_bytes(b"what some systems leave beside a copied file")
        assert len(imported(folder)) == 3 and bad(folder, processor) == {}

    def test_damaged_and_tiny_pictures(self, folder, photos, processor):
        (folder / "03.png").write_bytes(CAT[:500])
        (folder / "04.png").write_bytes((photos / "tiny.png").read_bytes())
        reasons = bad(folder, processor)
        assert "04.png: 31x90 pixels are too few" in reasons["colorful_cup2/04.png"]
        assert "03.png: damaged" in reasons["colorful_cup2/03.png"]

    def test_one_picture_is_its_own_reference(self, photos):
        (photos / "dog").mkdir()
        (photos / "dog" / "a.png").write_bytes(CAT)
        (sample,) = imported(photos / "dog")
        assert name(sample.parts[1].value.picture) == name(sample.parts[2].value) == "a.png"

    def test_folders_of_several_subjects_and_their_fingerprint(self, folder, photos):
        (photos / "colorful_dog").mkdir()
        (photos / "colorful_dog" / "a.png").write_bytes(CAT)
        (photos / "colorful_notes.txt").write_text("not a folder")
        source = Source(SourceSettings(f"{photos}/colorful_*/"))
        assert len(source) == 4
        (photos / "colorful_dog" / "b.png").write_bytes(CAT)
        assert Source(source.settings).fingerprint != source.fingerprint
        with pytest.raises(UserError, match="empty is a folder without pictures"):
            Source(SourceSettings(f"{photos}/colorful_*/", prior=str(photos / "empty")))

    def test_tars(self, photos, processor):
        content = {"image": "a.png", "noun": "cup", "references": ["b.png"]}
        (sample,) = imported(tar(photos / "d.tar", s={"a.png": CAT, "b.png": COFFEE, "json": content}))
        assert (sample.parts[1].value.picture.read(), sample.parts[2].value.read()) == (COFFEE, CAT)


class TestGrounded:
    def row(self, *objects, **columns):
        return {"image": "coffee.png", "caption": "a cup and a spoon, one more cup", "objects": list(objects)} | columns

    def test_objects(self, photos, processor):
        objects = [
            {"phrase": "cup", "box": CUP, "mask": [OUTLINE]}, {"phrase": "cup", "image": "cat.png"},
            {"phrase": "cup", "box": CUP}, {"box": CUP, "mask": {"size": [2, 1], "counts": [0, 2]}},
            {"mask": [OUTLINE]}, {"mask": {"size": [2, 4], "counts": [2, 1, 5]}},
        ]  # fmt: skip
        path = jsonl(photos / "g.jsonl", self.row(*objects), self.row())
        first, second = imported(path)
        subjects = [part.value for part in first.parts[1:-1]]
        assert [one.span for one in subjects] == [(2, 5), (28, 31), None, None, None, None]
        picture = str(photos / "coffee.png")
        assert subjects[0].picture == SubjectCrop(picture, tuple(CUP), Polygons((tuple(OUTLINE),)))
        assert subjects[1].picture == SubjectCrop(str(photos / "cat.png")) and subjects[1].box is None
        assert subjects[3].picture.mask == RunLengths((0, 2), 1, 2) and subjects[3].phrase is None
        assert subjects[4].box == (0.1, 0.1, 0.6, 0.9) and subjects[5].box == (0.25, 0, 0.5, 0.5)  # the masks' bounds
        assert first.grounding and not second.grounding and kinds(second) == ["text", "image"]
        assert bad(path, processor) == {}

    @pytest.mark.parametrize(
        ("item", "message"),
        [
            ({"mask": {"size": [2, 2], "counts": [4]}}, "not x1, y1, x2, y2"),
            ({}, "neither phrase nor box nor image"),
            ({"phrase": " "}, "the phrase of an object is ' '"),
            ({"box": [0.5, 0.1, 0.2, 0.9]}, "has no area"),
            ({"box": [40, 80, 300, 420]}, "not x1, y1, x2, y2 in 0..1"),
            ({"box": CUP, "mask": [[0, 0, 1, 1]]}, "three points at least"),
            ({"box": CUP, "mask": [[0, 0, 9, 1, 1, 1]]}, "reaches beyond its picture"),
            ({"box": CUP, "mask": {"size": [2, 2], "counts": [1, 2]}}, "have 3 pixels, its size is 2x2"),
            ({"box": CUP, "mask": {"size": [2, 2], "counts": [-1, 5]}}, "not lengths of runs"),
            ({"box": CUP, "mask": {"size": [2, 2], "counts": "~é"}}, "no part of a compressed mask"),
            ({"box": CUP, "mask": {"size": [2], "counts": [4]}}, r"must be \[height, width\]"),
        ],
    )
    def test_damage(self, item, message):
        refused(self.row(item), message)

    def test_grit_with_masks(self, photos, processor):
        rows = [[2, 5, *CUP, 0.9], [12, 17, *CUP, 0.4]]
        record = {"image": "coffee.png", "caption": "a cup and a spoon", "noun_chunks": rows}
        path = jsonl(photos / "grit.jsonl", {**record, "masks": [[OUTLINE], None]}, {**record, "masks": []})
        sample = imported(path, 1, min_score=0.5)[0]
        (box,) = [part.value for part in sample.parts if part.kind == "box"]
        assert box.each == [(tuple(CUP), Polygons((tuple(OUTLINE),)))]
        assert bad(path, processor) == {"line 2": "`masks` must be a list as long as the 2 phrase(s)"}

    def test_tars(self, photos, processor):
        content = {"caption": "a cup", "objects": [{"phrase": "cup", "box": CUP}]}
        (sample,) = imported(tar(photos / "g.tar", s={"png": COFFEE, "json": content}))
        assert isinstance(sample.parts[-1].value, FileSlice) and kinds(sample) == ["text", "subject", "image"]


def test_captions_in_every_form(photos, processor):
    pairs = jsonl(photos / "c.jsonl", {"image": "cat.png", "caption": "a cat"}, {"image": "tiny.png", "text": "a cat"})
    assert "31x90" in bad(pairs, processor)["line 2"] and len(bad(pairs, processor)) == 1
    assert bad(tar(photos / "c.tar", s={"png": CAT, "txt": "a cat"}), processor) == {}
    column = pyarrow.table({"image": [{"bytes": CAT, "path": None}], "text": ["a cat"]})
    parquet.write_table(column, photos / "c.parquet")
    assert bad(photos / "c.parquet", processor) == {}
    chat = {"image": "cat.png", "conversations": [{"from": "human", "value": "what?"}, {"from": "gpt", "value": "x"}]}
    (photos / "chat.json").write_text(json.dumps([chat]))
    assert "a conversation is not drawn" in bad(photos / "chat.json", processor)["record 0"]


def compressed(counts):
    """COCO's string, written from its definition."""
    text = ""
    for place, count in enumerate(counts):
        number = count - (counts[place - 2] if place > 2 else 0)
        more = True
        while more:
            bits, number = number & 31, number >> 5
            more = number != (-1 if bits & 16 else 0)
            text += chr((bits | 32 * more) + 48)
    return text


def test_compressed_masks():
    rng = np.random.default_rng(0)
    for _ in range(50):
        counts = rng.integers(0, 10 ** rng.integers(1, 6), rng.integers(1, 9)).tolist()
        assert decompressed(compressed(counts)) == counts
    assert decompressed("16360") == [1, 6, 3, 12, 3]
    with pytest.raises(BadSample, match="end within a number"):
        decompressed("1P")
    text = compressed([1, 2, 1])
    assert read_mask({"size": [2, 2], "counts": text}, CONTEXT) == RunLengths((1, 2, 1), 2, 2)
    assert read_mask("mask.png", CONTEXT) == "/data/mask.png" and read_mask(None, CONTEXT) is None
