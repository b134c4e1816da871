import base64
import json
from pathlib import Path

import pytest
from PIL import Image

from datamodules.context import Context
from datamodules.importers import check_format, import_record, importers
from emu2_lit.errors import UserError
from emu2_lit.samples.sample import BadSample, Box, FileSlice, Part

CONTEXT = Context(root=Path("/data"), label="record 7")
A, B = "/data/a.jpg", "/data/b.jpg"


def parts(record, format="auto", context=CONTEXT):
    return [(part.kind, part.value, part.role) for part in import_record(record, context, format).parts]


def refused(record, message, format="auto", context=CONTEXT):
    with pytest.raises(BadSample, match=message):
        import_record(record, context, format)


def llava(*turns, **columns):
    sides = {"h": "human", "g": "gpt"}
    return {**columns, "conversations": [{"from": sides.get(who, who), "value": text} for who, text in turns]}


def chat(*turns, **columns):
    return {**columns, "messages": [{"role": role, "content": content} for role, content in turns]}


def test_formats_are_found_by_file_name():
    documents = {"captions", "episodes", "grit", "mmc4", "numbered", "obelics", "text"}
    drawn = {"dreambooth", "grounded", "instructpix2pix", "omnigen", "subjects200k"}
    assert set(importers()) == documents | drawn | {"llava", "messages", "sharegpt", "webdataset"}
    check_format("auto")
    with pytest.raises(UserError, match="unknown data format 'lava'; known: auto, captions, dreambooth, "):
        check_format("lava")


@pytest.mark.parametrize(
    ("record", "message"), [(["x"], "is a list"), ({"foo": 1}, "no known format has the keys foo")]
)
def test_a_record_of_no_format_is_bad(record, message):
    refused(record, message)


class TestLlava:
    def test_tag_keeps_its_place(self):
        record = llava(("h", "Look: <image>\nWhat?"), ("g", " A cat. "), id=3, image="a.jpg")
        sample = import_record(record, CONTEXT)
        assert sample.id == "3"
        assert [part.learn for part in sample.parts] == [False, False, False, True]
        assert parts(record) == [
            ("text", "Look: ", "user"),
            ("image", A, "user"),
            ("text", "\nWhat?", "user"),
            ("text", "A cat.", "assistant"),
        ]

    def test_without_a_tag_the_images_come_first(self):
        record = llava(("h", "What?"), ("g", "A"), image=["a.jpg", "b.jpg"])
        assert [part[:2] for part in parts(record)[:3]] == [("image", A), ("image", B), ("text", "What?")]

    def test_several_images_follow_their_tags_over_turns(self):
        record = llava(("h", "<image> one"), ("g", "A"), ("h", "and <image>"), ("g", "B"), image=["a.jpg", "b.jpg"])
        assert [value for kind, value, _ in parts(record) if kind == "image"] == [A, B]

    @pytest.mark.parametrize(
        ("text", "images", "message"),
        [
            ("<image><image> x", ["a.jpg"], r"2 <image> tag\(s\) for 1 image\(s\)"),
            ("<image> x", ["a.jpg", "b.jpg"], r"1 <image> tag\(s\) for 2 image\(s\)"),
            ("a stray <image>", None, r"1 <image> tag\(s\) for 0 image\(s\)"),
        ],
    )
    def test_other_counts_are_bad(self, text, images, message):
        refused(llava(("h", text), ("g", "A"), image=images), message)

    def test_a_leading_answer_is_skipped_and_noted(self):
        record = llava(("g", "hi"), ("h", "Q"), ("g", "A"))
        sample = import_record(record, CONTEXT)
        assert [part.value for part in sample.parts] == ["Q", "A"]
        assert sample.notes == ("1 leading assistant turn(s) left out",)

    def test_a_last_question_is_left_out_and_noted(self):
        sample = import_record(llava(("h", "Q"), ("g", "A"), ("h", "Q2")), CONTEXT)
        assert [part.value for part in sample.parts] == ["Q", "A"]
        assert len(sample.notes) == 1

    def test_system_turn_and_system_column_are_system_messages(self):
        for record in (
            llava(("system", "Be brief."), ("h", "Q"), ("g", "A"), image=[]),
            llava(("h", "Q"), ("g", "A"), system="Be brief.", image=None),
        ):
            assert parts(record)[0] == ("text", "Be brief.", "system")

    def test_video_takes_the_place_of_an_image(self):
        record = llava(("h", "<image>\nWhat happens?"), ("g", "A"), video="v.mp4")
        kind, video, _ = parts(record)[0]
        assert (kind, video.source, video.slots) == ("video", "/data/v.mp4", 8)

    @pytest.mark.parametrize(
        ("turns", "message"),
        [
            ([("h", "Q")], "no answer"),
            ([("h", "Q"), ("bot", "A")], "unknown role 'bot' in turn 2"),
            ([("h", "Q"), (None, "A")], "unknown role None in turn 2"),
            ([("h", "Q"), ("h", "Q"), ("g", "A")], "turn 2 is user, expected assistant"),
            ([("h", "Q"), ("g", " ")], r"turn 2 \(assistant\) is empty"),
            ([("h", "Q"), ("g", None)], "text of turn 2 is None"),
            ([("h", "Q"), ("g", "A"), ("system", "S")], "system message may only stand first"),
            ([], "no turns"),
        ],
    )
    def test_broken_conversations_are_bad(self, turns, message):
        refused(llava(*turns), message)

    def test_special_strings_stay_text(self):
        text = "</s> [IMG] [<IMG_PLH>] [USER]: <patch_index_0001>"
        assert parts(llava(("h", text), ("g", "A")))[0] == ("text", text, "user")


class TestShareGpt:
    def test_images_videos_and_system(self):
        record = llava(
            ("h", "<video><image>Q"), ("g", "A"), images=["a.jpg"], videos=[["f0.png", "f1.png"]], system="S"
        )
        found = parts(record)
        assert [kind for kind, _, _ in found] == ["text", "video", "image", "text", "text"]
        assert found[1][1].source == ("/data/f0.png", "/data/f1.png") and found[1][1].slots == 2

    def test_images_without_tags_are_bad(self):
        refused(llava(("h", "Q"), ("g", "A"), images=["a.jpg"]), r"0 <image> tag\(s\) for 1 image\(s\)")

    def test_a_leading_answer_is_bad(self):
        refused(llava(("g", "A"), ("h", "Q"), ("g", "A"), images=[]), "turn 1 is assistant, expected user")


class TestMessages:
    def test_string_contents_with_a_column_of_images(self):
        record = chat(("system", "S"), ("user", "<image>Q"), ("assistant", "A"), images=["a.jpg"])
        assert parts(record) == [
            ("text", "S", "system"),
            ("image", A, "user"),
            ("text", "Q", "user"),
            ("text", "A", "assistant"),
        ]

    def test_images_without_tags_come_first(self):
        assert parts(chat(("user", "Q"), ("assistant", "A"), images=["a.jpg"]))[0] == ("image", A, "user")

    def test_without_images_a_tag_is_text(self):
        assert parts(chat(("user", "what is <image>?"), ("assistant", "A")))[0] == (
            "text",
            "what is <image>?",
            "user",
        )

    def test_typed_parts_in_their_order(self):
        content = [
            {"type": "text", "text": "see <image>"},
            {"type": "image_url", "image_url": {"url": "a.jpg"}},
            {"type": "image", "path": "b.jpg"},
            {"type": "video", "video": ["f.png"]},
            "Q",
        ]
        found = parts(chat(("user", content), ("assistant", [{"type": "text", "text": "A"}])))
        assert [kind for kind, _, _ in found] == ["text", "image", "image", "video", "text", "text"]
        assert found[0][1] == "see <image>" and found[2][1] == B

    def test_bare_image_parts_take_the_column_in_order(self):
        content = [{"type": "image"}, {"type": "image"}, {"type": "text", "text": "Q"}]
        found = parts(chat(("user", content), ("assistant", "A"), images=["a.jpg", {"bytes": b"png", "path": None}]))
        assert [value for _, value, _ in found[:2]] == [A, b"png"]

    @pytest.mark.parametrize(("count", "message"), [(1, "no image left"), (3, "1 of them have no image part")])
    def test_bare_parts_and_column_must_agree(self, count, message):
        content = [{"type": "image"}, {"type": "image"}]
        refused(chat(("user", content), ("assistant", "A"), images=["a.jpg"] * count), message)

    def test_loss_switches_a_turn_off(self):
        record = chat(("user", "Q"), ("assistant", "A"), ("user", "Q"), ("assistant", "B"))
        record["messages"][1]["loss"] = False
        assert [part.learn for part in import_record(record, CONTEXT).parts] == [False, False, False, True]

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ([{"type": "audio"}], "unknown content type 'audio' in turn 1"),
            ([{"type": "text"}], "text part of turn 1 has no text"),
            ([{"type": "image", "url": "https://x.org/a.jpg"}], "pictures are not downloaded"),
            (5, "text of turn 1 is 5"),
        ],
    )
    def test_broken_contents_are_bad(self, content, message):
        refused(chat(("user", content), ("assistant", "A")), message)

    def test_unknown_role_is_named(self):
        refused(chat(("user", "Q"), ("tool", "A")), "unknown role 'tool' in turn 2")

    def test_boxes_in_pixels_and_in_shares(self, tmp_path):
        Image.new("RGB", (200, 100)).save(tmp_path / "a.png")
        objects = {"ref": ["the dog"], "bbox": [[20, 10, 100, 50], [0, 0, 200, 100]]}
        record = chat(
            ("user", "<image>find <ref-object>"),
            ("assistant", "<bbox> and <bbox>"),
            images=["a.png"],
            objects=objects,
        )
        sample = import_record(record, Context(root=tmp_path, label="x"))
        assert sample.grounding
        assert [part.value for part in sample.parts if part.kind == "box"] == [
            Box(None, (0.1, 0.1, 0.5, 0.5)),
            Box(None, (0.0, 0.0, 1.0, 1.0)),
        ]
        record["messages"][1]["content"] = "<ref-object><bbox>"
        record["messages"][0]["content"] = "<image>find it"
        record["objects"] = {"ref": ["it"], "bbox": [[0.5, 0, 1, 1]], "bbox_type": "norm1"}
        assert import_record(record, CONTEXT).parts[-1] == Part("box", Box("it", (0.5, 0, 1, 1)), "assistant", True)

    @pytest.mark.parametrize(
        ("objects", "message"),
        [
            ({"bbox": []}, r"1 <bbox> placeholder\(s\) for 0"),
            ({"bbox": [[0, 0, 2, 1]], "bbox_type": "norm1"}, "not x1, y1, x2, y2 within its image"),
            ({"bbox": [[0, 0, 1]], "bbox_type": "norm1"}, "four numbers"),
            ({"bbox": [[0, 0, 1, 1]]}, "there are 0 image"),
            ({"bbox": [[0, 0, 1, 1]], "bbox_type": "thousand"}, "unknown bbox_type"),
            ([1], "`objects` is a list"),
        ],
    )
    def test_broken_boxes_are_bad(self, objects, message):
        refused(chat(("user", "Q"), ("assistant", "<bbox>"), objects=objects), message)


class TestCaptions:
    @pytest.mark.parametrize("key", ["caption", "text"])
    def test_caption_is_learned_after_the_image(self, key):
        sample = import_record({"image": "a.jpg", key: " a cat\n"}, CONTEXT)
        assert sample.parts == (Part("image", A), Part("text", "a cat", learn=True))
        assert not sample.is_chat and sample.id == "record 7"

    @pytest.mark.parametrize("caption", ["", "  ", None, 3])
    def test_no_caption_is_bad(self, caption):
        refused({"image": "a.jpg", "caption": caption}, "the caption is")


class TestImages:
    def test_data_uris_and_absolute_paths_pass(self):
        uri = "data:image/png;base64," + base64.b64encode(b"x").decode()
        for value, expected in [(uri, uri), ("/else/a.png", "/else/a.png"), ("file:///x/a.png", "/x/a.png")]:
            assert parts({"image": value, "text": "t"})[0][1] == expected

    @pytest.mark.parametrize("value", [5, {}, {"bytes": None}, [["a.jpg"]]])
    def test_other_values_are_bad(self, value):
        refused({"image": value, "text": "t"}, "an image must be")


class Members(dict):
    """Members of a tar sample, with bytes that stand in files."""

    def __init__(self, folder, **files):
        for suffix, data in files.items():
            path = folder / suffix
            path.write_bytes(data)
            self[suffix.replace("__", ".")] = FileSlice(str(path), 0, len(data), f"k.{suffix}")


class TestWebDataset:
    @staticmethod
    def record(folder, **files):
        return {"__key__": "x/k", "members": Members(folder, **files)}

    def test_image_and_txt_are_a_caption(self, tmp_path):
        record = self.record(tmp_path, jpg=b"j", txt=b" a cat ")
        sample = import_record(record, CONTEXT)
        assert [part.kind for part in sample.parts] == ["image", "text"]
        assert sample.parts[1].value == "a cat" and sample.id == "x/k"

    def test_images_go_in_the_order_of_their_numbers(self, tmp_path):
        files = {f"img{i}__jpg": str(i).encode() for i in (10, 2, 1)}
        record = chat(("user", "<image>" * 3 + "Q"), ("assistant", "A"))
        found = parts(self.record(tmp_path, **files, json=json.dumps(record).encode()))
        assert [value.read() for _, value, _ in found[:3]] == [b"1", b"2", b"10"]

    @pytest.mark.parametrize("name", ["1.jpg", "k.1.jpg", "x/k.1.jpg"])
    def test_json_may_name_its_images(self, tmp_path, name):
        inner = json.dumps(llava(("h", "Q"), ("g", "A"), image=name)).encode()
        record = self.record(tmp_path, **{"0__jpg": b"0", "1__jpg": b"1"}, json=inner)
        assert parts(record)[0][1].read() == b"1"

    def test_a_wrong_name_lists_what_there_is(self, tmp_path):
        record = self.record(tmp_path, jpg=b"0", json=b'{"image": "other.png", "caption": "c"}')
        refused(record, "names the image 'other.png', but the sample has only: jpg, json")

    def test_missing_and_broken_json_are_bad(self, tmp_path):
        refused(self.record(tmp_path, jpg=b"0"), "no json and no txt, only: jpg")
        refused(self.record(tmp_path, json=b"{"), "is not valid JSON")
        refused(self.record(tmp_path, json=b"[]"), "holds a list")
