"""Files that are not what they seem, through `data check` and `fit`: one clear message or entries in the ledger, never
a traceback."""

import gzip
import io
import json
import os
import struct
import tarfile
import zlib

import pytest
from PIL import Image

FIT = [
    "fit", "debug/dry_run", "data.prepare=null", "trainer.fast_dev_run=0", "trainer.max_steps=1", "data.validation=[]",
    "callbacks.answers=null", "callbacks.report=false", "data.global_batch_size=4", "data.micro_batch_size=4",
    "run.dir=run", "run.logger=[]", "data.bad_budget=0.01",
]  # fmt: skip


def chat(**changes) -> dict:
    turns = [{"from": "human", "value": "<image>\nwhat?"}, {"from": "gpt", "value": "a ball"}]
    return {"id": "s", "image": "ok.png", "conversations": turns} | changes


def records(*items) -> bytes:
    return json.dumps(list(items)).encode()


def lines(*items: bytes) -> bytes:
    return b"\n".join(items)


def tar(**members: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name.replace("__", "."))
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def png_of(width: int, height: int) -> bytes:
    """A picture whose header promises more than is there."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    body = zlib.compress(b"\0" * 1000)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


JUNK = bytes(range(256)) * 8
GOOD = json.dumps(chat()).encode()
FILES = {  # file name, contents, what is told
    "nothing": ("a.json", b"", "empty"),
    "white space": ("a.json", b" \n\n ", "empty"),
    "no lines": ("a.jsonl", b"", "no samples"),
    "empty list": ("a.json", b"[]", "no samples"),
    "empty object": ("a.json", b"{}", "no known format"),
    "null": ("a.json", b"null", "NoneType"),
    "a number": ("a.json", b"3", "int"),
    "a text": ("a.json", b'"hello"', "str"),
    "numbers": ("a.json", b"[1, 2, 3]", "int"),
    "lists": ("a.json", b"[[1], [[]]]", "list"),
    "junk json": ("a.json", JUNK, "UTF-8"),
    "junk lines": ("a.jsonl", JUNK, "UTF-8"),
    "junk parquet": ("a.parquet", JUNK, "Parquet"),
    "junk tar": ("a.tar", JUNK * 8, "tar"),
    "junk of no kind": ("a.bin", JUNK, "known file types"),
    "latin-1": ("a.json", '[{"id": "é"}]'.encode("latin-1"), "UTF-8"),
    "utf-16": ("a.json", '[{"id": "é"}]'.encode("utf-16"), "UTF-8"),
    "cut off": ("a.json", records(chat())[:-20], "not valid JSON"),
    "bottomless": ("a.json", b"[" * 100_000, "JSON"),
    "a huge number": ("a.json", b"[" + b"9" * 10_000 + b"]", "JSON"),
    "empty parquet": ("a.parquet", b"", "Parquet"),
    "empty tar": ("a.tar", b"", "a.tar"),
    "compressed tar": ("a.tar", gzip.compress(tar(a__txt=b"x")), "decompress"),
    "tar of nothing": ("a.tar", tar(), "no samples"),
    "tar of text": ("a.tar", tar(a__md=b"x"), "no json and no txt"),
    "tar with junk json": ("a.tar", tar(a__json=JUNK), "UTF-8"),
    "tar with a list": ("a.tar", tar(a__json=b"[]"), "list"),
    "tar with junk picture": ("a.tar", tar(a__jpg=JUNK, a__txt=b"x"), "not a picture"),
    "tar with empty picture": ("a.tar", tar(a__jpg=b"", a__txt=b"x"), "a.jpg"),
    "json as tar": ("a.tar", records(chat()), "tar"),
    "tar as json": ("a.json", tar(a__txt=b"x"), "JSON"),
    "lines of all kinds": ("a.jsonl", lines(b"3", b"null", b"{", b"[]", JUNK.replace(b"\n", b"")), "line 1"),
    "turns that are a text": ("a.json", records(chat(conversations="hi")), "s"),
    "turns that are numbers": ("a.json", records(chat(conversations=[1, None])), "s"),
    "turns that are an object": ("a.json", records(chat(conversations={"a": 1})), "s"),
    "turns that are missing": ("a.json", records(chat(conversations=None)), "s"),
    "values that are numbers": ("a.json", records(chat(conversations=[{"from": 3, "value": 4}])), "s"),
    "a picture that is a number": ("a.json", records(chat(image=5)), "not 5"),
    "a picture that is an object": ("a.json", records(chat(image={"x": 1})), "s"),
    "a picture in a list in a list": ("a.json", records(chat(image=[["ok.png"]])), "s"),
    "a picture that is null": ("a.json", records(chat(image=None)), "<image>"),
    "a picture that is a folder": ("a.json", records(chat(image=".")), "not a file"),
    "a picture without an end": ("a.json", records(chat(image="/dev/zero")), "/dev/zero: not a file"),
    "a picture that waits": ("a.json", records(chat(image="pipe")), "pipe: not a file"),
    "a picture that is missing": ("a.json", records(chat(image="gone.png")), "no such file"),
    "a name that no file has": ("a.json", records(chat(image="a\0b")), "s"),
    "a long name": ("a.json", records(chat(image="a" * 5000)), "s"),
    "an empty picture": ("a.json", records(chat(image="zero.png")), "zero.png"),
    "a junk picture": ("a.json", records(chat(image="junk.png")), "junk.png"),
    "a bomb": ("a.json", records(chat(image="bomb.png")), "pixels"),
    "a picture as large as allowed": ("a.json", records(chat(image="large.png")), "large.png"),
    "an id that is a list": ("a.json", records(chat(id=[1], image="gone.png")), "gone.png"),
    "half an emoji": ("a.json", records(chat(id="\ud83d", image="gone.png")), "gone.png"),
}


@pytest.fixture
def folder(tmp_path):
    """The current folder, with the pictures that samples name."""
    Image.new("RGB", (8, 8)).save(tmp_path / "ok.png")
    (tmp_path / "zero.png").touch()
    (tmp_path / "junk.png").write_bytes(JUNK)
    (tmp_path / "bomb.png").write_bytes(png_of(60_000, 60_000))
    (tmp_path / "large.png").write_bytes(png_of(9_000, 9_000))
    os.mkfifo(tmp_path / "pipe")
    return tmp_path


def assert_refused(result, name, told):
    status, out, err = result
    assert status == 2, (out, err)
    assert name in out + err and told in out + err, (out, err)
    assert "Traceback" not in out + err


@pytest.mark.parametrize("case", FILES)
@pytest.mark.parametrize("command", ["check", "fit"])
def test_a_file_of_nothing_good(emu2_lit, folder, command, case):
    name, contents, told = FILES[case]
    (folder / name).write_bytes(contents)
    arguments = ["data", "check", name] if command == "check" else [*FIT, f"data.sources=[{{path: {name}}}]"]
    assert_refused(emu2_lit(*arguments), name, told)


@pytest.mark.parametrize("suffix", ["json", "jsonl", "parquet", "tar"])
@pytest.mark.parametrize("command", [("data", "check"), (*FIT,)])
def test_a_folder_in_place_of_a_file(emu2_lit, folder, command, suffix):
    (folder / f"a.{suffix}").mkdir()
    path = f"a.{suffix}" if command[0] == "data" else f"data.sources=[{{path: a.{suffix}}}]"
    assert_refused(emu2_lit(*command, path), f"a.{suffix}", "is a folder")


def test_a_pipe_in_place_of_a_file(emu2_lit, folder):
    os.mkfifo(folder / "a.json")
    assert_refused(emu2_lit("data", "check", "a.json"), "a.json", "is no file")
