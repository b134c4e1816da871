import io
import sys

import numpy as np
import pytest
from PIL import Image

from emu2_lit.errors import UserError
from emu2_lit.model.images import ImageError, load_image
from emu2_lit.model.video import read_frames, sample_frames


@pytest.mark.parametrize(
    ("total", "count", "expected"),
    [
        (16, 4, [2, 6, 10, 14]),
        (100, 8, [6, 18, 30, 42, 54, 66, 78, 90]),
        (10, 3, [1, 4, 7]),
        (9, 8, [0, 1, 2, 3, 4, 5, 6, 7]),
        (8, 8, list(range(8))),
        (3, 8, [0, 1, 2]),
        (0, 8, []),
    ],
)
def test_the_middle_of_each_stretch(total, count, expected):
    assert sample_frames(total, count) == expected


def test_a_seed_draws_any_frames_in_order():
    drawn = [sample_frames(40, 8, seed) for seed in range(50)]
    assert drawn == [sample_frames(40, 8, seed) for seed in range(50)]
    assert all(places == sorted(set(places)) and len(places) == 8 for places in drawn)
    assert {place for places in drawn for place in places} == set(range(40))
    assert sample_frames(40, 8, seed=1) == [0, 8, 9, 13, 19, 20, 26, 35]
    assert sample_frames(3, 8, seed=1) == [0, 1, 2]


def test_a_list_of_frames():
    assert read_frames(["a", "b", "c", "d"], 2) == ["b", "d"]
    assert read_frames(("a",), 2) == ["a"]


def test_a_folder_of_frames_in_order_of_their_numbers(tmp_path):
    for number in range(12):
        Image.new("RGB", (2, 2), (number, 0, 0)).save(tmp_path / f"frame_{number}.png")
    (tmp_path / "notes.txt").write_text("no picture")
    frames = read_frames(str(tmp_path), 4)
    assert [load_image(frame).getpixel((0, 0))[0] for frame in frames] == [1, 4, 7, 10]


def test_an_empty_folder_and_a_missing_file(tmp_path):
    with pytest.raises(ImageError, match="no pictures in this folder"):
        read_frames(tmp_path, 4)
    with pytest.raises(ImageError, match="nowhere.mp4: no such file"):
        read_frames(tmp_path / "nowhere.mp4", 4)


def test_without_the_extra_a_video_file_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    (tmp_path / "a.mp4").write_bytes(b"")
    with pytest.raises(UserError, match=r"emu2-lit\[video\]"):
        read_frames(tmp_path / "a.mp4", 4)


def written(frames: int, form: str = "mp4") -> bytes:
    """A video whose n-th frame is of grey 10n."""
    av = pytest.importorskip("av", reason="video files need the `video` extra")
    file = io.BytesIO()
    with av.open(file, "w", format=form) as container:
        stream = container.add_stream("mpeg4", rate=5)
        stream.width = stream.height = 32
        for number in range(frames):
            picture = np.full((32, 32, 3), 10 * number, dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    return file.getvalue()


@pytest.mark.parametrize("form", ["mp4", "matroska"])  # the second does not say how many frames it holds
def test_a_video_file_and_its_bytes(form, tmp_path):
    (tmp_path / "video").write_bytes(written(16, form))
    for source in (tmp_path / "video", str(tmp_path / "video"), written(16, form)):
        frames = read_frames(source, 4)
        assert [round(np.asarray(frame).mean() / 10) for frame in frames] == [2, 6, 10, 14]
    assert len(read_frames(tmp_path / "video", 20)) == 16


def test_a_damaged_video_file(tmp_path):
    data = written(4)
    (tmp_path / "cut.mp4").write_bytes(data[: len(data) // 3])
    with pytest.raises(ImageError, match="cut.mp4: cannot be decoded"):
        read_frames(tmp_path / "cut.mp4", 2)
    with pytest.raises(ImageError, match="video: cannot be decoded"):
        read_frames(b"not a video", 2)
