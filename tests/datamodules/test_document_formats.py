"""Importers of documents, each on files as users have them."""

import base64
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
from datamodules.sources import Source
from emu2_lit.samples.encoding import encode
from emu2_lit.samples.sample import BadSample, Box, FileSlice, Part
from emu2_lit.settings import SourceSettings


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def picture(content, form="png"):
    file = io.BytesIO()
    Image.fromarray(content).resize((32, 32)).save(file, form)
    return file.getvalue()


CAT, COFFEE, ROCKET = (picture(content) for content in (pictures.chelsea(), pictures.coffee(), pictures.rocket()))


@pytest.fixture
def photos(tmp_path):
    """A folder of three photographs."""
    for name, content in (("cat", CAT), ("coffee", COFFEE), ("rocket", ROCKET)):
        (tmp_path / f"{name}.png").write_bytes(content)
    return tmp_path


def jsonl(path, *records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


def table(path, *records):
    parquet.write_table(pyarrow.Table.from_pylist(list(records)), path)
    return str(path)


def tar(path, **samples):
    with TarWriter(str(path)) as writer:
        for key, members in samples.items():
            writer.write({"__key__": key} | {name.replace("__", "."): member for name, member in members.items()})
    return str(path)


def shape(sample):
    """Each part as its text or the name of its picture, by groups."""
    found = {}
    for part in sample.parts:
        value = part.value
        if part.kind == "image":
            value = value.name if isinstance(value, FileSlice) else value.rsplit("/", 1)[-1]
        found.setdefault(part.group, []).append(value)
    return list(found.values())


def refused(path, message, **settings):
    with pytest.raises(BadSample, match=message):
        Source(SourceSettings(path, **settings))[0]


class TestMmc4:
    @staticmethod
    def record(**columns):
        info = [
            {"image_name": "rocket.png", "raw_url": "http://x/r", "matched_text_index": 2, "matched_sim": 0.31},
            {"image_name": "cat.png", "raw_url": "http://x/c", "matched_text_index": 0, "matched_sim": 0.22},
        ]
        texts = ["A cat.", " ", "A rocket flies. "]
        matrix = [[0.1, 0.2, 0.31], [0.22, 0.1, 0.2]]
        return {"text_list": texts, "image_info": info, "similarity_matrix": matrix, "url": "http://x", **columns}

    def test_pictures_stand_before_the_sentence_they_match(self, photos, processor):
        sample = Source(SourceSettings(jsonl(photos / "docs.jsonl", self.record())))[0]
        assert shape(sample) == [["cat.png", "A cat. "], ["rocket.png", "A rocket flies. "]]
        assert [part.learn for part in sample.parts] == [False, True, False, True]
        assert len(encode(sample, processor).pixel_values) == 2

    def test_pictures_inside_the_record(self, tmp_path, processor):
        info = [{"image_base64": base64.b64encode(CAT).decode(), "matched_text_index": 0}]
        record = self.record(image_info=info, similarity_matrix=None)
        sample = Source(SourceSettings(jsonl(tmp_path / "d.jsonl", record)))[0]
        assert len(encode(sample, processor).pixel_values) == 1

    @pytest.mark.parametrize(("limit", "kept"), [(0.0, 2), (0.22, 2), (0.25, 1), (0.32, 0)])
    def test_pictures_below_the_least_similarity_are_left_out(self, photos, limit, kept):
        path = jsonl(photos / "docs.jsonl", self.record())
        sample = Source(SourceSettings(path, min_similarity=limit))[0]
        assert [part.kind for part in sample.parts].count("image") == kept
        assert [part.kind for part in sample.parts].count("text") == 2

    def test_without_matches_the_matrix_assigns(self, photos):
        # The best sentence of both is the last; in all, 0.9 + 0.5 is more than 0.8 + 0.4.
        info = [{"image_name": "cat.png"}, {"image_name": "rocket.png"}]
        record = self.record(image_info=info, similarity_matrix=[[0.5, 0.1, 0.8], [0.4, 0.1, 0.9]])
        path = jsonl(photos / "d.jsonl", record)
        assert shape(Source(SourceSettings(path))[0])[0] == ["cat.png", "A cat. "]
        above = Source(SourceSettings(path, min_similarity=0.6))[0]
        assert shape(above) == [["A cat. "], ["rocket.png", "A rocket flies. "]]

    def test_pictures_that_were_never_downloaded_are_noted(self, photos):
        info = [{"raw_url": "http://x/gone", "matched_text_index": 0}, *self.record()["image_info"]]
        record = self.record(image_info=info, similarity_matrix=None)
        sample = Source(SourceSettings(jsonl(photos / "d.jsonl", record)))[0]
        assert len(sample.parts) == 4
        assert sample.notes == ("http://x/gone is left out: it has neither image_name nor image_base64",)

    @pytest.mark.parametrize(
        ("columns", "message"),
        [
            ({"text_list": "a"}, "`text_list` is not a list of sentences"),
            ({"image_info": {"a": 1}}, "`image_info` is not a list of objects"),
            ({"image_info": [{"image_name": "a", "matched_text_index": 3}]}, "3 is none of the 3 sentences"),
            ({"image_info": [{"image_name": "a"}], "similarity_matrix": None}, "there is no similarity_matrix"),
            ({"image_info": [{"image_name": "a"}], "similarity_matrix": [[1, 2]]}, r"similarity_matrix is \(1, 2\)"),
            ({"image_info": [{"image_name": "a"}], "similarity_matrix": [["a"]]}, "not a matrix of numbers"),
            ({"text_list": [" "], "image_info": []}, "the document is empty"),
        ],
    )
    def test_broken_documents_are_bad(self, tmp_path, columns, message):
        record = {"similarity_matrix": None} if "image_info" in columns else {}
        refused(jsonl(tmp_path / "d.jsonl", self.record(**(record | columns))), message)

    def test_a_document_with_a_picture_that_cannot_be_read_is_bad(self, photos, processor):
        (photos / "cat.png").write_bytes(CAT[:60])
        (photos / "rocket.png").unlink()
        path = jsonl(photos / "d.jsonl", self.record(), self.record(image_info=self.record()["image_info"][:1]))
        good = jsonl(photos / "good.jsonl", self.record(image_info=[]))
        report = check([SourceSettings(path), SourceSettings(good)], processor)
        assert report.good == 1
        assert ["cat.png" in entry["reason"] for entry in report.bad] == [True, False]
        assert ["rocket.png" in entry["reason"] for entry in report.bad] == [False, True]


class TestObelics:
    IMAGES = ["cat.png", None, "coffee.png", "rocket.png", None, "cat.png"]
    TEXTS = [None, "A cat. It sleeps.", None, None, "Two things\nand more.", None]
    PIECES = [
        ["cat.png", "A cat. "], ["It sleeps.\n"], ["coffee.png", "rocket.png", "Two things\n"],
        ["and more.\n", "cat.png"],
    ]  # fmt: skip

    def record(self, **columns):
        metadata = json.dumps([None if image is None else {"src": "http://x"} for image in self.IMAGES])
        general = json.dumps({"url": "http://x"})
        return {
            "images": self.IMAGES,
            "metadata": metadata,
            "general_metadata": general,
            "texts": self.TEXTS,
            **columns,
        }

    @pytest.mark.parametrize("write", [jsonl, table])
    def test_pictures_join_the_sentence_behind_them(self, photos, write):
        path = write(photos / f"docs.{'jsonl' if write is jsonl else 'parquet'}", self.record())
        assert shape(Source(SourceSettings(path))[0]) == self.PIECES

    def test_omnicorpus_and_pictures_as_bytes(self, tmp_path, processor):
        images = [{"bytes": CAT, "path": None}, None]
        metadata, general = [{"width": 3, "d_hash": "0"}, None], {"id": "7", "url": "http://x", "domain": ["x"]}
        path = table(
            tmp_path / "d.parquet",
            {"images": images, "texts": [None, "A cat."], "metadata": metadata, "general_metadata": general},
        )
        sample = Source(SourceSettings(path))[0]
        assert [part.kind for part in sample.parts] == ["image", "text"]
        assert len(encode(sample, processor).pixel_values) == 1

    @pytest.mark.parametrize(
        ("columns", "message"),
        [
            ({"texts": ["a"]}, "6 `images` for 1 `texts`"),
            ({"texts": ["a"] * 6}, "place 0 holds an image and a text"),
            ({"images": ["https://x.org/cat.png"], "texts": [None]}, "pictures are not downloaded while training"),
            ({"images": [None], "texts": [5]}, "the text at place 0 is 5"),
            ({"images": [None], "texts": [None]}, "the document is empty"),
            ({"images": [], "texts": []}, "the document is empty"),
        ],
    )
    def test_broken_documents_are_bad(self, tmp_path, columns, message):
        refused(jsonl(tmp_path / "d.jsonl", self.record(**columns)), message)


class TestNumbered:
    def test_text_k_stands_before_picture_k_and_the_last_text_behind(self, tmp_path, processor):
        members = {"0__txt": "first", "0__png": CAT}
        members |= {"10__txt": "eleventh", "10__png": ROCKET, "2__txt": " third ", "2__png": COFFEE, "1__png": CAT}
        members |= {"11__txt": "the end", "final_meta__json": {"id": "v", "frame_num": 11}}
        source = Source(SourceSettings(tar(tmp_path / "s.tar", v1=members)))
        assert source[0].id == "v1"
        assert shape(source[0]) == [
            ["first ", "v1.0.png"], ["v1.1.png"], ["third ", "v1.2.png"], ["eleventh ", "v1.10.png"], ["the end "],
        ]  # fmt: skip
        assert len(encode(source[0], processor).pixel_values) == 4
        assert shape(Source(SourceSettings(str(tmp_path / "s.tar"), "numbered"))[0]) == shape(source[0])

    def test_one_numbered_pair_is_a_caption(self, tmp_path):
        path = tar(tmp_path / "s.tar", a={"0__png": CAT, "0__txt": " a cat "})
        assert shape(Source(SourceSettings(path))[0]) == [["a.0.png", "a cat"]]
        assert shape(Source(SourceSettings(path, "numbered"))[0]) == [["a cat ", "a.0.png"]]

    def test_other_files_are_bad(self, tmp_path):
        refused(jsonl(tmp_path / "d.jsonl", {"0.txt": "a"}), "are members of a tar", format="numbered")
        path = tar(tmp_path / "s.tar", a={"0__txt": " ", "1__txt": " "})
        refused(path, "no numbered texts and pictures, only: 0.txt, 1.txt")


class TestPairs:
    def test_a_picture_and_its_text(self, tmp_path):
        source = Source(SourceSettings(tar(tmp_path / "s.tar", a={"jpg": CAT, "txt": "a cat"}, b={"jpg": b"x"})))
        assert [part.kind for part in source[0].parts] == ["image", "text"]
        with pytest.raises(BadSample, match="no json and no txt"):
            source[1]

    @pytest.mark.parametrize("caption", [{"txt": "it flies"}, {"json": {"caption": "it flies", "id": 3}}])
    def test_frames_and_their_text(self, tmp_path, processor, caption):
        frames = {f"frame_{i}__png": picture(np.full((8, 8, 3), 10 * i, np.uint8)) for i in (10, 2, 1)}
        sample = Source(SourceSettings(tar(tmp_path / "s.tar", a=frames | caption), num_frames=2))[0]
        video, text = sample.parts
        assert [frame.name for frame in video.value.source] == ["a.frame_1.png", "a.frame_2.png", "a.frame_10.png"]
        assert video.value.slots == 2 and text == Part("text", "it flies", learn=True)
        assert len(encode(sample, processor).video_pixel_values) == 2

    @pytest.mark.parametrize("suffix", ["mp4", "webm"])
    def test_a_video_file_is_read_where_it_lies(self, tmp_path, suffix):
        sample = Source(SourceSettings(tar(tmp_path / "s.tar", a={suffix: b"video", "txt": "it flies"})))[0]
        assert [part.kind for part in sample.parts] == ["video", "text"]
        assert sample.parts[0].value.source.read() == b"video" and sample.parts[0].value.slots == 8

    def test_a_video_file_gives_its_frames(self, tmp_path, processor):
        av = pytest.importorskip("av", reason="video files need the `video` extra")
        file = io.BytesIO()
        with av.open(file, "w", format="mp4") as container:
            stream = container.add_stream("mpeg4", rate=5)
            stream.width = stream.height = 32
            for number in range(16):
                content = np.full((32, 32, 3), 10 * number, dtype=np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(content, format="rgb24")))
            container.mux(stream.encode(None))
        source = Source(SourceSettings(tar(tmp_path / "s.tar", a={"mp4": file.getvalue(), "txt": "it brightens"})))
        frames = encode(source[0], processor).video_pixel_values
        brightness = frames.mean((1, 2, 3)).tolist()
        assert len(frames) == 8 and brightness == sorted(brightness)

    def test_several_videos_need_an_order(self, tmp_path):
        refused(tar(tmp_path / "s.tar", a={"0__mp4": b"v", "1__mp4": b"v", "txt": "t"}), "2 videos, 0.mp4, 1.mp4")

    def test_videos_in_other_files(self, photos):
        path = jsonl(photos / "v.jsonl", {"video": ["cat.png", "coffee.png"], "caption": "two things"})
        video, _ = Source(SourceSettings(path))[0].parts
        assert video.kind == "video" and video.value.slots == 2

    def test_a_folder_of_frames_is_in_the_order_of_its_numbers(self, tmp_path):
        (tmp_path / "v").mkdir()
        for number in (1, 2, 10):
            (tmp_path / "v" / f"f{number}.png").write_bytes(CAT)
        video, _ = Source(SourceSettings(jsonl(tmp_path / "v.jsonl", {"video": "v", "text": "t"})))[0].parts
        assert [frame.rsplit("/", 1)[-1] for frame in video.value.source] == ["f1.png", "f2.png", "f10.png"]


class TestGrit:
    CAPTION = "a dog and two cats on a sofa."
    DOG, CATS = [0, 5, 0.0, 0.25, 0.5, 1.0, 0.9], [10, 18, 0.5, 0.0, 1.0, 0.5, 0.8]
    OTHER_CAT, SOFA, LONG = [10, 18, 0.5, 0.5, 1.0, 1.004, 0.5], [22, 28, 0, 0.5, 1, 1, 0.7], [10, 28, 0, 0, 1, 1, 0.6]

    def parts(self, folder, *rows, column="ref_exps", **settings):
        record = {"key": "000", "image": "cat.png", "caption": self.CAPTION, column: list(rows)}
        sample = Source(SourceSettings(jsonl(folder / "g.jsonl", record), **settings))[0]
        assert sample.grounding == any(part.kind == "box" for part in sample.parts)
        assert sample.parts[0].kind == "image" and all(part.learn for part in sample.parts[1:])
        return [part.value for part in sample.parts[1:]]

    @pytest.mark.parametrize("column", ["ref_exps", "noun_chunks"])
    def test_phrases_carry_their_boxes(self, photos, column):
        found = self.parts(photos, self.CATS, self.DOG, self.OTHER_CAT, column=column)
        assert found == [
            Box("a dog", ((0.0, 0.25, 0.5, 1.0),)),
            " and ",
            Box("two cats", ((0.5, 0.0, 1.0, 0.5), (0.5, 0.5, 1.0, 1.0))),
            " on a sofa.",
        ]

    def test_of_phrases_that_overlap_the_longest_is_taken(self, photos):
        found = self.parts(photos, self.CATS, self.SOFA, self.LONG)
        assert found == ["a dog and ", Box("two cats on a sofa", ((0.0, 0.0, 1.0, 1.0),)), "."]

    def test_boxes_below_the_least_score_are_left_out(self, photos):
        assert self.parts(photos, self.CATS, self.OTHER_CAT, min_score=0.6)[1] == Box("two cats", ((0.5, 0, 1, 0.5),))
        assert self.parts(photos, self.CATS, self.OTHER_CAT, min_score=0.95) == [self.CAPTION]

    def test_in_tars_and_parquet(self, tmp_path, processor):
        record = {"caption": self.CAPTION, "noun_chunks": [self.DOG], "ref_exps": [self.DOG], "width": 3, "height": 3}
        tarred = tar(tmp_path / "s.tar", a={"jpg": CAT, "json": record, "txt": self.CAPTION})
        rows = {"ref_exps": [[float(value) for value in self.DOG]]}
        tabled = table(tmp_path / "g.parquet", record | rows | {"image": {"bytes": CAT}, "noun_chunks": [[0.0]]})
        for path in (tarred, tabled):
            sample = Source(SourceSettings(path))[0]
            assert [part.kind for part in sample.parts] == ["image", "box", "text"]
            assert sample.parts[1].value.phrase == "a dog"
            assert len(encode(sample, processor).pixel_values) == 1

    @pytest.mark.parametrize(
        ("row", "message"),
        [
            ([0, 5, 0, 0, 1, 1], "a phrase must be start, end"),
            ([0, 5, 0, 0, 1, "1", 1], "a phrase must be start, end"),
            ([5, 0, 0, 0, 1, 1, 1], "is not within the caption of 29 characters"),
            ([0, 90, 0, 0, 1, 1, 1], "is not within the caption"),
            ([0, 5, 0, 0, 300, 200, 1], "is not x1, y1, x2, y2 in 0..1"),
            ([0, 5, 0.5, 0, 0.2, 1, 1], "is not x1, y1, x2, y2 in 0..1"),
        ],
    )
    def test_broken_rows_are_bad(self, tmp_path, row, message):
        record = {"image": "cat.png", "caption": self.CAPTION, "ref_exps": [row]}
        refused(jsonl(tmp_path / "g.jsonl", record), message)

    def test_no_picture_is_bad(self, tmp_path):
        refused(jsonl(tmp_path / "g.jsonl", {"caption": "c", "ref_exps": []}), "boxes need one image, not 0")


class TestText:
    def test_every_sentence_is_a_part(self, tmp_path, processor):
        text = "One sentence. Another one!\nA line"
        sample = Source(SourceSettings(jsonl(tmp_path / "t.jsonl", {"text": text, "meta": {"set": "Pile"}})))[0]
        assert shape(sample) == [["One sentence. "], ["Another one!\n"], ["A line"]]
        whole = [Part("text", text, learn=True)]
        assert (
            encode(sample, processor).input_ids.tolist()
            == encode(sample.__class__("x", tuple(whole)), processor).input_ids.tolist()
        )

    def test_texts_in_tars_must_be_asked_for(self, tmp_path):
        path = tar(tmp_path / "s.tar", a={"txt": "one. two."})
        refused(path, "no known format has the keys caption")
        assert shape(Source(SourceSettings(path, "text"))[0]) == [["one. "], ["two."]]

    @pytest.mark.parametrize(("text", "reason"), [("", "empty"), (" ", "empty"), (5, "5")])
    def test_no_text_is_bad(self, tmp_path, text, reason):
        refused(jsonl(tmp_path / "t.jsonl", {"text": text}), f"the text is {reason}")
