"""Frames of a video: given as pictures, as a folder of them, or as a file (with the `video` extra)."""

import io
import re
from collections.abc import Callable, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

from PIL import Image

from emu2_lit.errors import UserError
from emu2_lit.model.images import ImageError

PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")


def sample_frames(total: int, count: int, seed: int | None = None) -> list[int]:
    """Which of `total` frames to show: the middle of each of `count` equal stretches, as the published demo does; with
    a seed any of them, as in pretraining (supplement B.1)."""
    if total <= count:
        return list(range(total))
    if seed is not None:
        draw = Random(seed).random  # unlike `sample`, the same in every version of Python
        return sorted(sorted(range(total), key=lambda _: draw())[:count])
    stretch = total // count
    return [stretch // 2 + stretch * place for place in range(count)]


def read_frames(source: Any, count: int, seed: int | None = None) -> list[Any]:
    """`count` frames, in order; all of them where the video has fewer.

    Args:
        source: a list of pictures, a folder of pictures numbered in their names, or a video file or its bytes.
        seed: draws the frames at random; None spreads them evenly.
    Returns:
        What `load_image` takes.
    Raises:
        ImageError: it is missing, empty or damaged.
        UserError: a video file, and the `video` extra is not installed.
    """
    choose = partial(sample_frames, count=count, seed=seed)
    if isinstance(source, list | tuple):
        return _chosen(source, choose)
    if isinstance(source, bytes):
        return _decode(io.BytesIO(source), "video", choose, count)
    path = Path(source)
    if path.is_dir():
        pictures = pictures_of(path)
        if not pictures:
            raise ImageError(f"{path}: no pictures in this folder")
        return _chosen(pictures, choose)
    if not path.is_file():
        raise ImageError(f"{path}: no such file")
    return _decode(str(path), str(path), choose, count)


def _chosen(frames: Sequence[Any], choose: Callable[[int], list[int]]) -> list[Any]:
    return [frames[place] for place in choose(len(frames))]


def pictures_of(folder: Path) -> list[Path]:
    """The pictures of a folder, in the order of the numbers in their names; hidden files are none."""
    found = (path for path in folder.iterdir() if path.suffix.lower() in PICTURES and not path.name.startswith("."))
    return sorted(found, key=_numbered)


def _numbered(path: Path) -> list[tuple[int, str]]:
    """Sorts frame_2 before frame_10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", path.stem)]


def _decode(file: Any, name: str, choose: Callable[[int], list[int]], count: int) -> list[Image.Image]:
    try:
        import av
    except ImportError as error:
        raise UserError("Video files need PyAV: pip install 'emu2-lit[video]', or give a folder of frames") from error
    try:
        with av.open(file) as container:
            total = container.streams.video[0].frames
            frames = _pick(container, choose(total))
            if len(frames) < count:  # the header holds no number of frames, or too high a one
                container.seek(0)
                total = sum(1 for _ in container.decode(video=0))
                container.seek(0)
                frames = _pick(container, choose(total))
            return frames
    except (av.FFmpegError, IndexError) as error:
        raise ImageError(f"{name}: cannot be decoded ({error})") from error


def _pick(container: Any, places: list[int]) -> list[Image.Image]:
    wanted = set(places)
    frames = islice(enumerate(container.decode(video=0)), max(wanted, default=-1) + 1)
    return [frame.to_image() for place, frame in frames if place in wanted]
