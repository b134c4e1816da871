"""WebDataset tars read at random through an index of offsets that is made once per file.

Naming rules (evaluation_and_data: WebDataset): consecutive members that share a key are one sample; the key
is the path up to the first dot of the file name, the suffix is the rest in lower case.
"""

import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.cached import Arrays, cache_folder, cached
from datamodules.records import PackedRecords
from emu2_lit.errors import UserError
from emu2_lit.samples.sample import BadSample, FileSlice, stamp_of
from emu2_lit.samples.seeding import hash_seed

INDEX_VERSION = 1


class TarRecords:
    """The samples of a tar as records {"__key__", "members": {suffix: FileSlice}}.

    A truncated tar gives what is readable, and one record more that is a BadSample saying where the damage
    is.
    """

    def __init__(self, path: Path, cache: Path | None = None):
        self.path, self.stamp = str(path), stamp_of(path)
        self.groups = _cached_index(path, cache or cache_folder("tars"))

    def __len__(self) -> int:
        return len(self.groups)

    def __getitem__(self, index: int) -> dict[str, Any]:
        group = self.groups[index]
        if problem := group.get("problem"):
            raise BadSample(problem)
        members = {
            suffix: FileSlice(self.path, offset, size, f"{group['key']}.{suffix}", self.stamp)
            for suffix, (offset, size) in group["members"].items()
        }
        return {"__key__": group["key"], "members": members}

    def label(self, index: int) -> str:
        return self.groups[index]["key"]


def split_name(name: str) -> tuple[str, str]:
    """Key and suffix of a member: "a/b.0.PNG" -> ("a/b", "0.png")."""
    folder, _, file = name.rpartition("/")
    stem, _, suffix = file.partition(".")
    return (f"{folder}/{stem}" if folder else stem), suffix.lower()


def index_tar(path: Path) -> list[dict[str, Any]]:
    """The groups of a tar in order; the last one says so where the file is damaged."""
    groups: list[dict[str, Any]] = []
    problem = None
    try:
        for name, offset, size in _members(path):
            key, suffix = split_name(name)
            if not groups or groups[-1]["key"] != key:
                groups.append({"key": key, "members": {}})
            if suffix in groups[-1]["members"]:
                groups[-1]["problem"] = f"{path} holds {key}.{suffix} twice in one sample"
            groups[-1]["members"][suffix] = (offset, size)
    except _Damaged as damage:
        if groups and groups[-1]["key"] == damage.key:
            groups.pop()
        problem = f"{path} is damaged: {damage}; the {len(groups)} samples before are used"
    if problem:
        groups.append({"key": "(end of tar)", "members": {}, "problem": problem})
    return groups


class _Damaged(Exception):
    def __init__(self, message: str, key: str | None = None):
        super().__init__(message)
        self.key = key


def _members(path: Path) -> Iterator[tuple[str, int, int]]:
    """Regular members as (name, offset of the data, size), without hidden files and `__meta__` entries."""
    end = path.stat().st_size
    try:
        archive = tarfile.open(path, "r:")
    except tarfile.ReadError as error:
        reason = "compressed tars cannot be read by offset: decompress it" if _is_compressed(path) else error
        raise UserError(f"{path} is not a readable tar: {reason}") from error
    with archive:
        while True:
            start = archive.offset
            try:
                member = archive.next()
            except (tarfile.TarError, OSError) as error:
                raise _Damaged(f"{error} near byte {start} of {end}") from error
            if member is None:
                break
            archive.members = []  # tarfile would keep every header in memory
            name = member.name.removeprefix("./")
            if member.offset_data + member.size > end:
                raise _Damaged(f"the file ends within {name}", split_name(name)[0])
            if member.isreg() and not name.rpartition("/")[2].startswith((".", "__")):
                yield name, member.offset_data, member.size
    _check_end(path, start)


def _check_end(path: Path, offset: int) -> None:
    """A complete tar ends in blocks of zeros; anything else means that members are missing."""
    with open(path, "rb") as file:
        file.seek(offset)
        tail = file.read(tarfile.BLOCKSIZE)
    if len(tail) < tarfile.BLOCKSIZE or any(tail):
        raise _Damaged(f"it ends at byte {offset} without the end-of-archive mark, it may be truncated")


def _is_compressed(path: Path) -> bool:
    with open(path, "rb") as file:
        return file.read(6).startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00", b"\x28\xb5\x2f\xfd"))


def _cached_index(path: Path, cache: Path) -> PackedRecords:
    def index() -> Arrays:
        records = PackedRecords.pack(index_tar(path))
        return {"blob": np.frombuffer(records.blob, np.uint8), "ends": records.ends}

    arrays = cached(cache, hash_seed(INDEX_VERSION, path.resolve(), *stamp_of(path)), index)
    return PackedRecords(arrays["blob"].tobytes(), arrays["ends"])
