import gzip
import io
import os
import tarfile

import pytest

from datamodules.tars import TarRecords, index_tar, split_name
from emu2_lit.errors import UserError
from emu2_lit.samples.sample import BadSample


def make_tar(path, members):
    with tarfile.open(path, "w") as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("a.jpg", ("a", "jpg")),
        ("x/b.0.PNG", ("x/b", "0.png")),
        ("v1.2/c.seg.txt", ("v1.2/c", "seg.txt")),
        ("no_suffix", ("no_suffix", "")),
    ],
)
def test_names_split_at_the_first_dot_of_the_file(name, parts):
    assert split_name(name) == parts


def test_consecutive_members_with_one_key_are_a_sample(tmp_path):
    members = [
        ("./a.jpg", b"AJ"),
        ("a.json", b"{}"),
        ("b.0.jpg", b"B0"),
        ("b.1.jpg", b"B1"),
        ("._b.txt", b"junk"),
    ]
    records = TarRecords(make_tar(tmp_path / "s.tar", members), cache=tmp_path / "cache")
    assert [records.label(i) for i in range(len(records))] == ["a", "b"]
    assert records[0]["members"]["jpg"].read() == b"AJ"
    assert records[1]["members"]["1.jpg"].read() == b"B1"


def test_index_is_made_once_and_again_when_the_tar_changes(tmp_path):
    cache, path = tmp_path / "cache", make_tar(tmp_path / "s.tar", [("a.txt", b"a")])
    assert len(TarRecords(path, cache)) == 1
    stored = list(cache.iterdir())
    written = stored[0].stat().st_mtime_ns
    assert len(TarRecords(path, cache)) == 1
    assert [(file, file.stat().st_mtime_ns) for file in cache.iterdir()] == [(stored[0], written)]
    make_tar(path, [("a.txt", b"a"), ("b.txt", b"b")])
    os.utime(path, ns=(1, 1))
    assert len(TarRecords(path, cache)) == 2


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path):
    (tmp_path / "file").write_text("")
    path = make_tar(tmp_path / "s.tar", [("a.txt", b"a")])
    assert len(TarRecords(path, cache=tmp_path / "file" / "cache")) == 1


def test_truncation_within_a_member_keeps_the_samples_before(tmp_path):
    members = [(f"{i}.{suffix}", bytes(2000)) for i in range(4) for suffix in ("jpg", "txt")]
    path = make_tar(tmp_path / "s.tar", members)
    with open(path, "r+b") as file:
        file.truncate(6 * 2560 + 3 * 512)
    records = TarRecords(path, cache=tmp_path / "cache")
    assert [records.label(i) for i in range(len(records))] == ["0", "1", "2", "(end of tar)"]
    with pytest.raises(BadSample, match=r"damaged: the file ends within 3\.jpg; the 3 samples before are used"):
        records[3]


@pytest.mark.parametrize("cut", [2 * 1024, 2 * 1024 + 100])
def test_truncation_between_members_is_noticed(tmp_path, cut):
    path = make_tar(tmp_path / "s.tar", [(f"{i}.txt", b"text") for i in range(3)])
    with open(path, "r+b") as file:
        file.truncate(cut)
    groups = index_tar(path)
    assert [group["key"] for group in groups] == ["0", "1", "(end of tar)"]
    assert "end-of-archive" in groups[-1]["problem"]


def test_overwritten_bytes_are_reported_as_damage(tmp_path):
    path = make_tar(tmp_path / "s.tar", [(f"{i}.txt", b"text") for i in range(3)])
    with open(path, "r+b") as file:
        file.seek(1024)
        file.write(b"\x07" * 512)
    groups = index_tar(path)
    assert [group["key"] for group in groups] == ["0", "(end of tar)"]


def test_a_suffix_twice_in_one_sample_is_bad(tmp_path):
    path = make_tar(tmp_path / "s.tar", [("a.txt", b"1"), ("a.TXT", b"2"), ("b.txt", b"3")])
    records = TarRecords(path, cache=tmp_path / "cache")
    with pytest.raises(BadSample, match=r"a\.txt twice"):
        records[0]
    assert records[1]["members"]["txt"].read() == b"3"


def test_compressed_and_other_files_are_refused(tmp_path):
    path = make_tar(tmp_path / "s.tar", [("a.txt", b"1")])
    (tmp_path / "z.tar").write_bytes(gzip.compress(path.read_bytes()))
    with pytest.raises(UserError, match="decompress"):
        index_tar(tmp_path / "z.tar")
    (tmp_path / "t.tar").write_text("not a tar")
    with pytest.raises(UserError, match="not a readable tar"):
        index_tar(tmp_path / "t.tar")
