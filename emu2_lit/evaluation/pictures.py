"""Pictures of questions: when two are the same, and what the tower makes of them, computed once."""

import hashlib
import os
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from emu2_lit.errors import UserError
from emu2_lit.model.images import ImageError, image_bytes, load_image, pixel_values
from emu2_lit.samples.features import as_rows
from emu2_lit.samples.sample import BadSample, FileSlice, picture_name

_READERS = 4  # threads that read and decode
_AT_ONCE = 32  # pictures in one pass of the tower


class Pictures:
    """Pooled tower features of pictures, kept in host memory by the pictures' bytes; the longest unused go first. Where
    the processor has a store of them, they come from there.

    Args:
        model: Emu2ForConditionalGeneration, with or without adapters.
        processor: an Emu2Processor.
        n_query: visual tokens per picture; default the model's own, but at most 64, which every Emu2 model knows (in
            Emu2-Chat, stills have 256 and video frames 64).
        capacity: bytes of features kept.
    """

    def __init__(self, model: nn.Module, processor: Any, n_query: int | None = None, capacity: int = 2**31):
        self.model, self.processor = model, processor
        self.n_query = n_query or min(64, processor.n_query)
        self.capacity = capacity
        self._kept: OrderedDict[str, Tensor] = OrderedDict()
        self._size = 0

    def embed(self, values: Sequence[Any]) -> Tensor:
        """(pictures, n_query, visual width) of image values, on the tower's device.

        Raises:
            UserError: a picture cannot be read.
        """
        device = next(self.model.parameters()).device
        if self.processor.features is not None:
            try:
                return as_rows(self.processor.features, values, self.n_query).to(device)
            except BadSample as error:
                raise UserError(str(error)) from error
        with ThreadPoolExecutor(_READERS) as readers:
            contents = list(readers.map(content, values))
            keys = [_digest(one) for one in contents]
            found = {key: self._kept[key] for key in keys if key in self._kept}
            missing = {key: place for place, key in enumerate(keys) if key not in found}
            names = [picture_name(values[place]) for place in missing.values()]
            pixels = list(readers.map(self._pixels, (contents[place] for place in missing.values()), names))
        for start in range(0, len(pixels), _AT_ONCE):
            some = torch.stack(pixels[start : start + _AT_ONCE]).to(device)
            with torch.no_grad():
                features = self.model.encode_image(some, self.n_query).cpu()
            found.update(zip(list(missing)[start : start + _AT_ONCE], features.unbind(), strict=True))
        for key in keys:
            self._keep(key, found[key])
        return torch.stack([found[key] for key in keys]).to(device)

    def features(self, values: Sequence[Any]) -> Tensor:
        """(pictures, visual width) float32: each picture's mean token, to tell which are alike."""
        return self.embed(values).float().mean(dim=1)

    def _pixels(self, picture: bytes | Image.Image, name: str) -> Tensor:
        try:
            return pixel_values(load_image(picture), self.processor.image_size)
        except ImageError as error:
            raise UserError(f"{name}: {error}") from error

    def _keep(self, key: str, features: Tensor) -> None:
        if key not in self._kept:
            self._kept[key] = features.clone()  # a view would keep the whole pass
            self._size += _bytes(features)
        self._kept.move_to_end(key)
        while self._size > self.capacity:
            self._size -= _bytes(self._kept.popitem(last=False)[1])


def content(value: Any) -> bytes | Image.Image:
    """The encoded bytes of an image value; PIL images as they are. Raises UserError when it cannot be read."""
    try:
        if isinstance(value, Image.Image):
            return value
        return value.read() if isinstance(value, FileSlice) else image_bytes(value)
    except (BadSample, ImageError) as error:
        raise UserError(str(error)) from error


def same_pictures(some: Sequence[Any], others: Sequence[Any]) -> bool:
    """Whether both show the same pictures in the same order, wherever their bytes lie."""
    return len(some) == len(others) and all(map(_same, some, others))


def _same(one: Any, other: Any) -> bool:
    if one is other:
        return True
    sizes = _stored_size(one), _stored_size(other)
    if None not in sizes and sizes[0] != sizes[1]:
        return False  # most pairs end here, without reading
    return _digest(content(one)) == _digest(content(other))


def _stored_size(value: Any) -> int | None:
    if isinstance(value, FileSlice):
        return value.size
    if isinstance(value, bytes):
        return len(value)
    try:
        return os.stat(value).st_size if isinstance(value, str | Path) else None
    except (OSError, ValueError):  # a URI, or a file that is not there: reading it says so
        return None


def _digest(picture: bytes | Image.Image) -> str:
    if isinstance(picture, Image.Image):
        picture = f"{picture.mode} {picture.size} ".encode() + picture.tobytes()
    return hashlib.blake2b(picture, digest_size=16).hexdigest()


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
