"""The frozen tower's pooled output, computed once: files of features, found by what a picture is.

A folder holds shards, safetensors files of one number of visual tokens each: `ids` (pictures, 16) uint8 and `features`
(pictures, n_query, width). Pictures that cannot be read stand with the reason in a shard's metadata. Shards are named
by their content and written whole, so a folder is sound at any moment and any number of processes may add to it.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.nn import functional as F

from emu2_lit.errors import UserError
from emu2_lit.model.images import ImageError, image_bytes
from emu2_lit.model.weight_writing import layout_of, write_safetensors
from emu2_lit.samples.sample import BadSample, DrawnPicture, FileSlice, picture_name

ID_BYTES = 16
_ID = f"S{ID_BYTES}"
_PICTURES = (str, Path, bytes, FileSlice, Image.Image, DrawnPicture)


def picture_id(value: Any) -> bytes:
    """16 bytes that name a picture: a hash of its encoded bytes; of a drawn one, of what it is drawn from and how.

    Nothing is decoded. Raises BadSample when it cannot be read.
    """
    if isinstance(value, DrawnPicture):
        drawn = {field.name: getattr(value, field.name) for field in fields(value)}
        said = [type(value).__name__, *(f"{name}={_said(one)}" for name, one in drawn.items())]
        return hash_bytes(" ".join(said).encode())
    if isinstance(value, Image.Image):
        return hash_bytes(f"{value.mode} {value.size} ".encode() + value.tobytes())
    try:
        return hash_bytes(value.read() if isinstance(value, FileSlice) else image_bytes(value))
    except ImageError as error:
        reason, name = str(error), picture_name(value)
        raise BadSample(reason if name in reason else f"{name}: {reason}") from error


def hash_bytes(data: bytes) -> bytes:
    """16 bytes that name these."""
    return hashlib.blake2b(data, digest_size=ID_BYTES).digest()


def _said(value: Any) -> str:
    return picture_id(value).hex() if isinstance(value, _PICTURES) else repr(value)


def write_shard(folder: Path, features: dict[bytes, Tensor], bad: dict[bytes, str] | None = None) -> None:
    """Write features by picture id, each (n_query, width), and the pictures that cannot be read with the reasons.

    Raises UserError when it cannot be written.
    """
    tensors = {"ids": torch.tensor([list(id) for id in features], dtype=torch.uint8).view(-1, ID_BYTES)}
    if features:
        tensors["features"] = torch.stack(list(features.values()))
    told = {id.hex(): reason for id, reason in (bad or {}).items()}
    name = hash_bytes(b"".join([*features, *(bad or {})])).hex()
    write_safetensors(
        folder / f"{name}.safetensors", layout_of(tensors.items()), tensors.items(), {"bad": json.dumps(told)}
    )


class FeatureStore:
    """The features in a folder, mapped into memory and read row by row.

    Args:
        command: what a user runs to add missing pictures; for messages.
    """

    def __init__(self, folder: str | Path, command: str = "emu2-lit data cache RECIPE"):
        self.folder, self.command = Path(folder), command
        self.files = sorted(self.folder.glob("[!.]*.safetensors"))
        self.bad: dict[bytes, str] = {}
        self._opened: dict[int, Any] = {}
        found = [self._index(place, file) for place, file in enumerate(self.files)]
        rows = np.concatenate([np.empty(0, _row), *found])
        self._rows = rows[np.lexsort((-rows["n_query"], rows["id"]))]  # of one picture the finest first

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_opened": {}}

    def __len__(self) -> int:
        return len(self._rows)

    def knows(self, id: bytes, n_query: int) -> bool:
        """Whether the picture is there as finely as asked, or known to be bad."""
        return id in self.bad or self._find(id, n_query) is not None

    def __call__(self, value: Any, n_query: int) -> Tensor:
        """(n_query, width) of a picture.

        Raises:
            BadSample: it cannot be read.
            UserError: it is not in the store.
        """
        id = picture_id(value)
        if id in self.bad:
            raise BadSample(self.bad[id])
        row = self._find(id, n_query)
        if row is None:
            raise UserError(
                f"{picture_name(value)}: this picture is not among the features in {self.folder} with {n_query} visual "
                f"tokens; add it with `{self.command}`, or train without data.features"
            )
        return coarser(self._open(row["file"]).get_slice("features")[int(row["row"])], n_query)

    def _find(self, id: bytes, n_query: int) -> Any:
        wanted = id.rstrip(b"\0")  # as NumPy gives bytes back
        place = np.searchsorted(self._rows["id"], np.bytes_(wanted))
        for row in self._rows[place : place + 4]:
            if row["id"] == wanted and _divides(int(row["n_query"]), n_query):
                return row
        return None

    def _open(self, place: int) -> Any:
        if place not in self._opened:
            self._opened[place] = safe_open(self.files[place], framework="pt")
        return self._opened[place]

    def _index(self, place: int, file: Path) -> np.ndarray:
        try:
            with safe_open(file, framework="pt") as opened:
                self.bad.update((bytes.fromhex(id), why) for id, why in json.loads(opened.metadata()["bad"]).items())
                ids = opened.get_tensor("ids").numpy()
                rows = np.empty(len(ids), _row)
                if len(ids):
                    rows["id"] = np.ascontiguousarray(ids).view(_ID)[:, 0]
                    rows["n_query"] = opened.get_slice("features").get_shape()[1]
        except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
            raise UserError(f"{file}: damaged, or not of features ({error}); delete it and make it anew") from error
        rows["file"], rows["row"] = place, np.arange(len(ids))
        return rows


_row = np.dtype([("id", _ID), ("n_query", np.int32), ("file", np.int32), ("row", np.int32)])


def finest(asked: Iterable[int]) -> list[int]:
    """Of several numbers of visual tokens those from which all others can be had."""
    kept: list[int] = []
    for n_query in sorted(set(asked), reverse=True):
        if not any(_divides(one, n_query) for one in kept):
            kept.append(n_query)
    return kept


def _divides(fine: int, coarse: int) -> bool:
    return round(fine**0.5) % round(coarse**0.5) == 0


def coarser(features: Tensor, n_query: int) -> Tensor:
    """Pooled features (n, width), pooled further to (n_query, width): the mean of means is that of all patches."""
    if len(features) == n_query:
        return features
    side, wanted = round(len(features) ** 0.5), round(n_query**0.5)
    grid = features.float().T.reshape(1, -1, side, side)
    return F.avg_pool2d(grid, side // wanted).flatten(2)[0].T.to(features.dtype)


def room_for(counts: dict[int, int], width: int, dtype: torch.dtype) -> int:
    """Bytes that pictures take: `counts` says how many there are of each number of visual tokens."""
    return sum(count * (n_query * width * dtype.itemsize + ID_BYTES) for n_query, count in counts.items())


def as_rows(store: FeatureStore, values: Sequence[Any], n_query: int) -> Tensor:
    """(pictures, n_query, width) of several pictures; see `FeatureStore.__call__`."""
    return torch.stack([store(value, n_query) for value in values])
