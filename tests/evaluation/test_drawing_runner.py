"""Pictures of a benchmark: seeds, files, and going on where a run was killed."""

from dataclasses import replace

import pytest
import torch
from PIL import Image

from emu2_lit.errors import UserError
from emu2_lit.evaluation.drawing_benchmark import DrawingTask
from emu2_lit.evaluation.drawing_runner import DrawnPictures, draw
from emu2_lit.samples.seeding import hash_seed
from emu2_lit.settings import DrawingSettings
from tests.distributed import run_ranks
from tests.model.decoder_cases import alike, same, tiny_generator

QUICK = DrawingSettings(steps=2, seed=3)
TASKS = [DrawingTask("a/00", ("a dog",)), DrawingTask("a/01", ("a dog on", " the moon")), DrawingTask("b", ("x",))]


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    pictures = DrawnPictures(tmp_path_factory.mktemp("drawn"), 2)
    draw(tiny_generator(), TASKS, QUICK, pictures)
    return pictures


def times(pictures):
    return {task.id: [pictures.path(task, k).stat().st_mtime_ns for k in (0, 1)] for task in TASKS}


def test_a_file_for_each_picture_of_its_own_seed(drawn):
    assert sorted(path.relative_to(drawn.folder).as_posix() for path in drawn.folder.rglob("*.png")) == [
        "a/00_0.png", "a/00_1.png", "a/01_0.png", "a/01_1.png", "b_0.png", "b_1.png",
    ]  # fmt: skip
    for task in TASKS:
        seed = hash_seed(QUICK.seed, task.id) % 2**32
        expected = tiny_generator().generate(list(task.prompt), replace(QUICK, seed=seed, images_per_prompt=2))
        assert same(drawn.read(task), expected)
    assert not same(drawn.read(TASKS[0])[:1], drawn.read(TASKS[0])[1:])


def test_what_is_there_is_not_drawn_again_and_what_is_missing_is(drawn):
    before, kept = times(drawn), drawn.read(TASKS[1])
    drawn.path(TASKS[1], 1).unlink()
    assert drawn.missing(TASKS[1]) == [1]
    draw(tiny_generator(), TASKS, QUICK, drawn)
    after = times(drawn)
    assert alike(drawn.read(TASKS[1]), kept)
    after["a/01"][1] = before["a/01"][1]
    assert after == before


def test_prompts_drawn_together_are_those_drawn_alone(drawn, tmp_path):
    together = DrawnPictures(tmp_path, 2)
    draw(tiny_generator(), TASKS, replace(QUICK, batch_size=2), together)
    for task in TASKS:
        assert alike(together.read(task), drawn.read(task))


def test_a_damaged_picture_is_named(tmp_path):
    pictures = DrawnPictures(tmp_path, 1)
    pictures.path(TASKS[2], 0).write_bytes(b"half")
    with pytest.raises(UserError, match="b_0.png"):
        pictures.read(TASKS[2])


def test_pictures_begin_anew_once_cleared(tmp_path):
    pictures = DrawnPictures(tmp_path / "some", 1)
    pictures.write(TASKS[0], 0, Image.new("RGB", (4, 4)))
    pictures.clear()
    assert pictures.missing(TASKS[0]) == [0]


def share(folder: str) -> list[str]:
    torch.distributed.init_process_group("gloo")
    pictures, written = DrawnPictures(folder, 2), []
    write = pictures.write
    pictures.write = lambda task, *drawn: (written.append(task.id), write(task, *drawn))
    draw(tiny_generator(), TASKS, QUICK, pictures)
    assert not any(pictures.missing(task) for task in TASKS)  # also those of the other rank
    torch.distributed.destroy_process_group()
    return written


def test_two_ranks_share_the_prompts(tmp_path, drawn):
    assert run_ranks(share, 2, str(tmp_path)) == [["a/00", "a/00", "b", "b"], ["a/01", "a/01"]]
    assert all(same(DrawnPictures(tmp_path, 2).read(task), drawn.read(task)) for task in (TASKS[0], TASKS[2]))
