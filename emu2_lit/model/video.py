"""Frames of a video: given as pictures, as a folder of them, or as a file (with the `video` extra)."""

import io
import re
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from PIL import Image

from emu2_lit.errors import UserError
from emu2_lit.model.images import ImageError

PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")


def sample_frames(total: int, count: int) -> list[int]:
    """Which of `total` frames to show: the middle of each of `count` equal stretches, as the published demo does."""
    if total <= count:
        return list(range(total))
    stretch = total // count
    return [stretch // 2 + stretch * place for place in range(count)]


def read_frames(source: Any, count: int) -> list[Any]:
    """`count` frames, evenly spread, in order; all of them where the video has fewer.

    Args:
        source: a list of pictures, a folder of pictures numbered in their names, or a video file or its bytes.
    Returns:
        What `load_image` takes.
    Raises:
        ImageError: it is missing, empty or damaged.
        UserError: a video file, and the `video` extra is not installed.
    """
    if isinstance(source, list | tuple):
        return _spread(source, count)
    if isinstance(source, bytes):
        return _decode(io.BytesIO(source), "video", count)
    path = Path(source)
    if path.is_dir():
        pictures = sorted((p for p in path.iterdir() if p.suffix.lower() in PICTURES), key=_numbered)
        if not pictures:
            raise ImageError(f"{path}: no pictures in this folder")
        return _spread(pictures, count)
    if not path.is_file():
        raise ImageError(f"{path}: no such file")
    return _decode(str(path), str(path), count)


def _spread(frames: Sequence[Any], count: int) -> list[Any]:
    return [frames[place] for place in sample_frames(len(frames), count)]


def _numbered(path: Path) -> list[tuple[int, str]]:
    """Sorts frame_2 before frame_10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", path.stem)]


def _decode(file: Any, name: str, count: int) -> list[Image.Image]:
    try:
        import av
    except ImportError as error:
        raise UserError("Video files need PyAV: pip install 'emu2-lit[video]', or give a folder of frames") from error
    try:
        with av.open(file) as container:
            total = container.streams.video[0].frames
            frames = _pick(container, sample_frames(total, count))
            if len(frames) < count:  # the header holds no number of frames, or too high a one
                container.seek(0)
                total = sum(1 for _ in container.decode(video=0))
                container.seek(0)
                frames = _pick(container, sample_frames(total, count))
            return frames
    except (av.FFmpegError, IndexError) as error:
        raise ImageError(f"{name}: cannot be decoded ({error})") from error


def _pick(container: Any, places: list[int]) -> list[Image.Image]:
    wanted = set(places)
    frames = islice(enumerate(container.decode(video=0)), max(wanted, default=-1) + 1)
    return [frame.to_image() for place, frame in frames if place in wanted]
