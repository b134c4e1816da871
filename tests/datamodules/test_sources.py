import json
import pickle

import pytest

from datamodules.sources import Source, expand_braces, find_files, open_sources
from emu2_lit.errors import UserError
from emu2_lit.model.chat_template import SYSTEM_MESSAGES
from emu2_lit.samples.sample import BadSample
from emu2_lit.settings import SourceSettings
from tests.datamodules.test_tars import make_tar

CHAT = {"conversations": [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}]}


def write(path, *records):
    path.write_text("\n".join(r if isinstance(r, str) else json.dumps(r) for r in records))
    return str(path)


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("a.json", ["a.json"]),
        ("s-{00..02}.tar", ["s-00.tar", "s-01.tar", "s-02.tar"]),
        ("{a,b}-{1..2}.tar", ["a-1.tar", "a-2.tar", "b-1.tar", "b-2.tar"]),
    ],
)
def test_brace_lists_expand_as_in_a_shell(pattern, names):
    assert expand_braces(pattern) == names


def test_globs_are_sorted_and_missing_files_named(tmp_path):
    for name in "ba":
        write(tmp_path / f"{name}.jsonl", CHAT)
    assert [path.name for path in find_files(f"{tmp_path}/*.jsonl")] == ["a.jsonl", "b.jsonl"]
    with pytest.raises(UserError, match=r"data file not found: .*c\.jsonl \(from "):
        find_files(f"{tmp_path}/{{a,c}}.jsonl")


def test_files_make_one_index_with_labels(tmp_path):
    write(tmp_path / "a.jsonl", CHAT, CHAT)
    write(tmp_path / "b.jsonl", {**CHAT, "id": "own"}, "{broken")
    source = Source(SourceSettings(f"{tmp_path}/*.jsonl", name="mine"))
    assert len(source) == 4
    assert [source[i].id for i in range(3)] == ["a.jsonl: line 1", "a.jsonl: line 2", "own"]
    assert source[0].source == "mine"
    with pytest.raises(BadSample, match="line 2 is not valid JSON"):
        source[3]
    with pytest.raises(IndexError):
        source[4]


def test_relative_pictures_are_found_beside_the_file_or_in_root(tmp_path):
    path = write(tmp_path / "a.jsonl", {"image": "x.png", "caption": "c"})
    assert Source(SourceSettings(path))[0].parts[0].value == str(tmp_path / "x.png")
    assert Source(SourceSettings(path, root="/pictures"))[0].parts[0].value == "/pictures/x.png"


@pytest.mark.parametrize(
    ("message", "text"),
    [("concise", SYSTEM_MESSAGES["concise"]), ("none", ""), ("Answer in verse.", "Answer in verse.")],
)
def test_system_message_is_given_to_samples_without_one(tmp_path, message, text):
    own = {"messages": [{"role": r, "content": r} for r in ("system", "user", "assistant")]}
    caption = {"image": "x.png", "caption": "c"}
    source = Source(SourceSettings(write(tmp_path / "a.jsonl", CHAT, own, caption), system_message=message))
    assert (source[0].parts[0].role, source[0].parts[0].value) == ("system", text)
    assert source[1].parts[0].value == "system"
    assert len(source[2].parts) == 2


def test_tars_take_the_format_of_their_json(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    record = json.dumps({"image": "jpg", **CHAT}).encode()
    path = make_tar(tmp_path / "s.tar", [("k.jpg", b"j"), ("k.json", record)])
    for format in ("auto", "llava", "webdataset"):
        assert Source(SourceSettings(str(path), format))[0].parts[0].value.read() == b"j"


def test_fingerprint_follows_content_and_not_place(tmp_path):
    (tmp_path / "x").mkdir()
    first = Source(SourceSettings(write(tmp_path / "a.jsonl", CHAT, CHAT))).fingerprint
    assert Source(SourceSettings(write(tmp_path / "x" / "a.jsonl", CHAT, CHAT))).fingerprint == first
    other = {"conversations": CHAT["conversations"][:1] + [{"from": "gpt", "value": "B"}]}
    assert Source(SourceSettings(write(tmp_path / "a.jsonl", CHAT, other))).fingerprint != first


def test_a_source_travels_to_spawned_workers(tmp_path):
    source = Source(SourceSettings(write(tmp_path / "a.jsonl", CHAT)))
    assert pickle.loads(pickle.dumps(source))[0] == source[0]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", "[]", "holds no samples"),
        ("a.jsonl", "\n\n", "holds no samples"),
        ("a.txt", "x", "known file types are .json, .jsonl"),
        ("folder", None, "is a folder without pictures; name a file"),
    ],
)
def test_sources_that_cannot_be_are_user_errors(tmp_path, name, content, message):
    path = tmp_path / name
    path.mkdir() if content is None else path.write_text(content)
    with pytest.raises(UserError, match=message):
        Source(SourceSettings(str(path)))


def test_unknown_format_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match="unknown data format"):
        Source(SourceSettings(write(tmp_path / "a.jsonl", CHAT), format="lava"))


def test_weights_are_for_all_or_none_and_positive(tmp_path):
    path = write(tmp_path / "a.jsonl", CHAT)
    with pytest.raises(UserError, match="or none of them"):
        open_sources([SourceSettings(path, weight=1.0), SourceSettings(path)])
    with pytest.raises(UserError, match="must be positive"):
        open_sources([SourceSettings(path, weight=0.0)])


def test_equal_names_are_told_apart(tmp_path):
    path = write(tmp_path / "a.jsonl", CHAT)
    names = [source.name for source in open_sources([SourceSettings(path, name="a")] * 2)]
    assert names == ["a #1", "a #2"]
