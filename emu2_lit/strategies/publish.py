"""Checkpoints that are whole or not there, single files and folders of many ranks alike.

All ranks write into a hidden folder beside the target and sync what they wrote to disk; rank 0 adds a manifest to
folders and renames. A crash at any instant leaves the previous checkpoint and, at most, leftovers in the hidden folder.
"""

import contextlib
import hashlib
import json
import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint import CheckpointException

from emu2_lit.errors import UserError
from emu2_lit.ranks import gathered, place

STAGING = ".partial"
LAST = "last"
_MANIFEST = "manifest.json"
_HASHED_BYTES = 1 << 20  # files up to this size are known by their content, larger ones by their size
_FAILURES = (OSError, RuntimeError, CheckpointException, UserError)  # torch reports a failed write as RuntimeError


def publish(path: Path, write: Callable[[Path], None], needed: int = 0, about: dict[str, Any] | None = None) -> None:
    """Let every rank `write` its part of a checkpoint, and put the whole at `path`, where `last` then points.

    Args:
        path: of the checkpoint, on a file system that all ranks share.
        write: makes a file or a folder at the path that it is given.
        needed: bytes that will be written by all ranks; they must be free before anything is.
        about: is kept in the manifest of a folder, see `read_about`.
    Raises:
        UserError: on every rank, if the folder cannot be written to or the disk is full; what was there stands.
    """
    staged = path.parent / STAGING / path.name
    try:
        _on_rank_zero(lambda: _make_room(staged, needed))
        _together(lambda: write(staged))
        _together(lambda: _sync(staged))
        _on_rank_zero(lambda: _put_in_place(staged, path, about))
    except _FAILURES as error:
        if place()[0] == 0:
            shutil.rmtree(staged.parent, ignore_errors=True)
        raise UserError(
            f"{path.parent}: cannot write the checkpoint {path.name}: {error}. It takes about {needed:,} bytes, "
            f"{_free(path.parent):,} are free. The previous checkpoint stands: make room (callbacks.keep_checkpoints "
            "says how many are kept), and the same command goes on from there"
        ) from error


def discard(path: Path) -> None:
    """Remove a checkpoint; half-removed, it is none."""
    gone = path.parent / STAGING / f"old-{path.name}"
    gone.parent.mkdir(exist_ok=True)
    _remove(gone)
    os.replace(path, gone)
    _remove(gone)
    _remove_if_empty(gone.parent)


def clean(folder: Path) -> None:
    """Remove what a crash left behind."""
    shutil.rmtree(folder / STAGING, ignore_errors=True)


def is_complete(path: Path) -> bool:
    """Whether this is a whole checkpoint: a folder by its manifest; a file that torch.save wrote is a zip archive,
    whose directory comes last."""
    if not path.is_dir():
        return zipfile.is_zipfile(path)
    try:
        files = _manifest(path)["files"]
        return all(_describe(path / name) == told for name, told in files.items())
    except (OSError, ValueError, KeyError):
        return False


def read_about(path: Path) -> dict[str, Any]:
    """What was kept `about` a checkpoint, without its tensors; empty where nothing was. Raises OSError and what
    torch.load does for a file that is no checkpoint."""
    if path.is_dir():
        return _manifest(path).get("about", {}) if (path / _MANIFEST).exists() else {}
    return torch.load(path, map_location="cpu", mmap=True, weights_only=True).get("about", {})


def tensor_bytes(values: Any) -> int:
    """Size of all tensors in nested dicts and lists; a sharded one counts whole."""
    if isinstance(values, torch.Tensor):
        return values.numel() * values.element_size()
    if isinstance(values, dict):
        values = list(values.values())
    return sum(map(tensor_bytes, values)) if isinstance(values, list | tuple) else 0


def sync_file(path: Path) -> None:
    """Make a file, or the names in a folder, survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _on_rank_zero(action: Callable[[], None]) -> None:
    _together(action if place()[0] == 0 else lambda: None)


def _together(action: Callable[[], None]) -> None:
    """Run `action` on every rank; where it fails on one, all raise, so that none waits for ever."""
    failure: BaseException | None = None
    try:
        action()
    except (Exception, CheckpointException) as error:
        failure = error
    reasons = gathered([_reason(failure)] if failure else [])
    if failure and not isinstance(failure, _FAILURES):
        raise failure
    if reasons:
        raise OSError(reasons[0]) from failure


def _reason(error: BaseException) -> str:
    if isinstance(error, UserError) and error.__cause__:
        error = error.__cause__
    if isinstance(error, CheckpointException):  # one error of each rank that failed
        error = next(iter(error.failures.values()))[0]
    return getattr(error, "strerror", None) or str(error).splitlines()[0]


def _make_room(staged: Path, needed: int) -> None:
    staged.parent.mkdir(parents=True, exist_ok=True)
    _remove(staged)
    if _free(staged.parent) < needed:
        raise OSError("not enough free space")


def _put_in_place(staged: Path, path: Path, about: dict[str, Any] | None) -> None:
    if staged.is_dir():
        files = {str(file.relative_to(staged)): _describe(file) for file in _files(staged)}
        (staged / _MANIFEST).write_text(json.dumps({"files": files, "about": about or {}}, indent=1))
        _sync(staged)
    if path.is_dir():
        discard(path)  # of a run that was further and went back
    os.replace(staged, path)
    with contextlib.suppress(OSError):  # a file system without links goes without
        pointer = staged.parent / LAST
        pointer.unlink(missing_ok=True)
        pointer.symlink_to(path.name)
        os.replace(pointer, path.parent / LAST)
    sync_file(path.parent)
    _remove_if_empty(staged.parent)


def _sync(path: Path) -> None:
    """Files, then the folders that name them. Every rank syncs all: it cannot tell which are its own, and for the
    others there is nothing to do."""
    for file in _files(path):
        sync_file(file)
    for folder in [path, *path.rglob("*")] if path.is_dir() else []:
        if folder.is_dir():
            sync_file(folder)


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path] if path.exists() else []
    return sorted(file for file in path.rglob("*") if file.is_file() and file.name != _MANIFEST)


def _describe(file: Path) -> dict[str, Any]:
    size = file.stat().st_size
    told: dict[str, Any] = {"bytes": size}
    if size <= _HASHED_BYTES:
        told["sha256"] = hashlib.sha256(file.read_bytes()).hexdigest()
    return told


def _manifest(path: Path) -> dict[str, Any]:
    return json.loads((path / _MANIFEST).read_text())


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _remove_if_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):
        folder.rmdir()


def _free(folder: Path) -> int:
    """Bytes; of the nearest folder above that exists."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free
