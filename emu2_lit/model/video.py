"""Frames of a video: given as pictures, as a folder of them, or as a file (with the `video` extra)."""

from collections.abc import Sequence
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
    """`count` frames, evenly spread, in order.

    Args:
        source: a list of pictures, a folder of pictures in order of their names, or a video file or its bytes.
    Returns:
        What `load_image` takes.
    Raises:
        ImageError: it is missing, empty or damaged.
        UserError: a video file, and the `video` extra is not installed.
    """
    if isinstance(source, list | tuple):
        return _spread(source, count)
    if not isinstance(source, bytes) and Path(source).is_dir():
        pictures = sorted(path for path in Path(source).iterdir() if path.suffix.lower() in PICTURES)
        if not pictures:
            raise ImageError(f"{source}: no pictures in this folder")
        return _spread(pictures, count)
    return _decode(source, count)


def _spread(frames: Sequence[Any], count: int) -> list[Any]:
    return [frames[place] for place in sample_frames(len(frames), count)]


def _decode(source: Any, count: int) -> list[Image.Image]:
    import io

    try:
        import av
    except ImportError as error:
        raise UserError("Video files need PyAV: pip install 'emu2-lit[video]', or give a folder of frames") from error
    if not isinstance(source, bytes) and not Path(source).is_file():
        raise ImageError(f"{source}: no such file")
    try:
        with av.open(io.BytesIO(source) if isinstance(source, bytes) else str(source)) as container:
            total = container.streams.video[0].frames or sum(1 for _ in container.decode(video=0))
            container.seek(0)
            wanted = set(sample_frames(total, count))
            return [
                frame.to_image() for place, frame in enumerate(container.decode(video=0)) if place in wanted
            ]
    except (av.FFmpegError, IndexError) as error:
        raise ImageError(f"{'video' if isinstance(source, bytes) else source}: cannot be decoded ({error})") from error
