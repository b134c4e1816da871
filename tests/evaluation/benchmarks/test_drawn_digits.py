"""The judge of drawn digits: real ones pass, others and misplaced ones do not."""

import pytest
from PIL import Image

from emu2_lit.errors import UserError
from emu2_lit.evaluation.benchmarks import open_benchmark
from emu2_lit.evaluation.benchmarks.drawn_digits import ink_inside
from emu2_lit.evaluation.encoders import Judges, read


@pytest.fixture(scope="module")
def benchmark(drawings):
    return open_benchmark("drawn_digits", drawings)


@pytest.fixture(scope="module")
def canvases(benchmark, drawings):
    """The real picture that each box task is to come out as."""
    return {task.id: drawings / "images" / f"{task.id.removeprefix('box/')}.png" for task in benchmark.tasks[200:]}


@pytest.fixture(scope="module")
def digits(benchmark):
    """Real pictures of each digit, of those that are shown."""
    found = {}
    for task in benchmark.tasks[200:]:
        found.setdefault(task.extra["digit"], []).append(task.prompt[0].picture)
    return found


def real(benchmark, canvases, digits):
    """Draws everything as it should be."""
    used = dict.fromkeys(digits, 0)

    def pictures(task):
        if task.id in canvases:
            return [read(canvases[task.id])]
        digit = task.extra["digit"]
        used[digit] += 1
        return [read(digits[digit][used[digit] % len(digits[digit])])]

    return pictures


def score(benchmark, pictures):
    return benchmark.score(benchmark.tasks, pictures, Judges([]))[0]


def test_there_are_200_of_each_kind(benchmark):
    kinds = [task.id.split("/")[0] for task in benchmark.tasks]
    assert (kinds.count("text"), kinds.count("box"), len({task.id for task in benchmark.tasks})) == (200, 200, 400)
    assert {task.extra["digit"] for task in benchmark.tasks[:10]} == set(range(10))
    assert benchmark.logged("text_accuracy") == "text_accuracy"


def test_real_digits_pass(benchmark, canvases, digits):
    figures = score(benchmark, real(benchmark, canvases, digits))
    assert figures["judge_accuracy"] > 0.98
    assert figures["text_accuracy"] > 0.95 and figures["box_accuracy"] > 0.9
    assert figures["box_ink"] > 0.99
    assert figures["relative_diversity"] == pytest.approx(1, abs=0.2)


def test_the_same_picture_for_all_has_no_diversity(benchmark, digits):
    figures = score(benchmark, lambda task: [read(digits[7][0])])
    assert figures["text_accuracy"] == pytest.approx(0.1) and figures["diversity"] == 0


def test_a_digit_beside_its_box_is_wrong(benchmark, canvases):
    """Each canvas turned upside down: most digits lie elsewhere then."""

    def pictures(task):
        return [read(canvases[task.id]).rotate(180)] if task.id in canvases else [Image.new("RGB", (56, 56))]

    figures = score(benchmark, pictures)
    assert figures["box_accuracy"] < 0.35 and figures["box_ink"] < 0.9
    assert figures["text_accuracy"] < 0.2


def test_ink_is_measured_in_the_box():
    picture = Image.new("RGB", (8, 8))
    picture.paste((255, 255, 255), (0, 0, 4, 2))
    assert ink_inside(picture, (0, 0, 2, 8)) == pytest.approx(0.5)
    assert ink_inside(Image.new("RGB", (8, 8)), (0, 0, 8, 8)) == 0


def test_a_folder_without_the_files_is_refused(tmp_path):
    with pytest.raises(UserError, match="digits_train.jsonl"):
        open_benchmark("drawn_digits", tmp_path)
