"""Arrays that are made once per file and kept, in the user's cache: a data folder may be read-only or shared."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

Arrays = dict[str, np.ndarray]


def cache_folder(kind: str) -> Path:
    """Where arrays of a kind are kept."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "emu2_lit" / kind


def cached(folder: Path, key: int, make: Callable[[], Arrays]) -> Arrays:
    """What `make` gives, or gave when it was last asked for this key; a file that cannot be read is made anew."""
    stored = folder / f"{key:016x}.npz"
    try:
        with np.load(stored, allow_pickle=False) as arrays:
            return dict(arrays)
    except (OSError, ValueError, BadZipFile):
        pass
    arrays = make()
    _store(stored, arrays)
    return arrays


def _store(target: Path, arrays: Arrays) -> None:
    """Publish them whole or, where nothing can be written, not at all; several processes may do so."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=target.parent, suffix=".tmp", delete=False) as file:
            np.savez(file, **arrays)
        os.replace(file.name, target)
    except OSError:
        return
