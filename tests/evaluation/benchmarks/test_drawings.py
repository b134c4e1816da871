"""Benchmarks that draw: what is drawn from what, and against what it is scored."""

import pytest
import torch
from PIL import Image

from emu2_lit.errors import UserError
from emu2_lit.evaluation.benchmarks import open_benchmark
from emu2_lit.evaluation.benchmarks.dreambench import KEPT, reworded
from emu2_lit.evaluation.benchmarks.dreambench_plus import with_picture
from emu2_lit.evaluation.drawing_runner import DrawnPictures
from emu2_lit.evaluation.encoders import Judges
from tests.evaluation.drawing_cases import (
    CLASSES,
    COLOURS,
    SCENES,
    WORN,
    ColourMoments,
    MeanColour,
    cobsat_folder,
    colour_judges,
    dreambench_folder,
    dreambench_plus_folder,
    plain,
    prompts_file,
    whole_dreambench,
)


@pytest.fixture(scope="module")
def dreambench(tmp_path_factory):
    return dreambench_folder(tmp_path_factory.mktemp("dreambench"))


def test_the_whole_of_dreambench_is_3000_pictures(tmp_path):
    opened = open_benchmark("dreambench", whole_dreambench(tmp_path))
    assert len(opened.tasks) == 750 and opened.pictures_per_task == 4
    shown = {(task.extra["subject"], task.extra["shown"].removesuffix(".jpg")) for task in opened.tasks}
    assert shown == set(KEPT.items()) and len(KEPT) == 30
    assert len({task.id for task in opened.tasks}) == 750


def test_dreambench_shows_the_kept_picture_in_emu2s_wording(dreambench):
    tasks = {task.id: task for task in open_benchmark("dreambench", dreambench).tasks}
    assert len(tasks) == 3 * len(SCENES) + 2 * len(SCENES + WORN)
    kept = dreambench / "dataset" / "backpack" / "02.jpg"
    assert tasks["backpack/00"].prompt == (kept, " in the jungle")
    assert tasks["backpack/00"].text == "a backpack in the jungle"
    assert tasks["backpack/02"].prompt == (kept, " Make it red") and tasks["backpack/02"].text == "a red backpack"
    assert tasks["bear_plushie/03"].text == "a cube shaped stuffed animal"
    assert tasks["cat/04"].prompt == (dreambench / "dataset" / "cat" / "04.jpg", " wearing a red hat")
    assert "backpack/04" not in tasks


def test_one_or_all_references(dreambench):
    one, every = (open_benchmark("dreambench", dreambench, split) for split in ("one", "all"))
    assert all(task.references == task.prompt[:1] for task in one.tasks)
    assert all(len(task.references) == 6 for task in every.tasks)
    assert [task.prompt for task in one.tasks] == [task.prompt for task in every.tasks]
    assert "one" in one.compared_with and "all" in every.compared_with and one.name != every.name
    assert one.drawn_as == every.drawn_as
    with pytest.raises(UserError, match="neither `one` nor `all`"):
        open_benchmark("dreambench", dreambench, "some")


def test_without_the_kept_picture_the_first_is_shown(tmp_path):
    folder = dreambench_folder(tmp_path, {"can": "can", "my_dog": "dog"})
    (folder / "dataset" / "can" / "01.jpg").unlink()
    shown = {task.extra["subject"]: task.extra["shown"] for task in open_benchmark("dreambench", folder).tasks}
    assert shown == {"can": "00.jpg", "my_dog": "00.jpg"}


@pytest.mark.parametrize(
    ("text", "told"),
    [("Classes\ncat,cat\n", "0 prompts for objects"), (prompts_file({"gone": "cat"}), "no pictures in .*gone")],
)
def test_dreambench_that_is_not_as_published(tmp_path, text, told):
    (tmp_path / "dataset").mkdir()
    (tmp_path / "prompts_and_classes.txt").write_text(text)
    with pytest.raises(UserError, match=told):
        open_benchmark("dreambench", tmp_path)


def test_prompts_do_not_begin_with_a():
    assert reworded("a wet {}") == "{} Make it wet" and reworded("a {} on the beach") == "{} on the beach"
    assert reworded("an {} of old") == "an {} of old"


def test_dreambench_scores_follow_the_references(dreambench):
    one, every = (open_benchmark("dreambench", dreambench, split, limit=1) for split in ("one", "all"))
    (task,), (same,) = one.tasks, every.tasks
    drawn = [Image.open(task.references[0])] * 4
    figures = one.task_figures(task, drawn, colour_judges())
    assert figures["colour_i"] == pytest.approx(1, abs=1e-6) and figures["diversity"] == 0
    assert every.task_figures(same, drawn, colour_judges())["colour_i"] < 1 - 1e-6


def test_a_limit_spreads_over_the_prompts(dreambench):
    tasks = open_benchmark("dreambench", dreambench, limit=11).tasks
    assert len(tasks) == 11 and {task.extra["subject"] for task in tasks} == set(CLASSES)


def test_dreambench_plus_reads_and_writes_its_layout(tmp_path):
    opened = open_benchmark("dreambench_plus", dreambench_plus_folder(tmp_path))
    ids = [task.id for task in opened.tasks]
    assert ids == [f"{name}/{k}" for name in ("live_subject_animal_03_kitten", "object_03_tea_pot") for k in (0, 1)]
    image = tmp_path / "images" / "live_subject" / "animal" / "03.jpg"
    assert opened.tasks[0].prompt == (image, " on a sofa.")
    assert opened.tasks[1].prompt == (image, " An oil painting, sunny")
    opened.write_layout(tmp_path / "samples", opened.tasks, lambda task: [plain("blue")])
    for kind, ending in (("src_image", "jpg"), ("tgt_image", "jpg"), ("text", "txt")):
        written = [tmp_path / "samples" / kind / f"{task.id}_0.{ending}" for task in opened.tasks]
        assert sorted((tmp_path / "samples" / kind).rglob("*.*")) == sorted(written)
    text = tmp_path / "samples" / "text" / "object_03_tea_pot" / "0_0.txt"
    assert text.read_text() == "A tea pot on a sofa."
    assert len(open_benchmark("dreambench_plus", tmp_path, split="object").tasks) == 2


def test_dreambench_plus_without_a_caption(tmp_path):
    (dreambench_plus_folder(tmp_path) / "captions" / "object" / "03.txt").unlink()
    with pytest.raises(UserError, match="03.txt is missing"):
        open_benchmark("dreambench_plus", tmp_path)


def test_the_picture_takes_the_place_of_subject_and_article(tmp_path):
    assert with_picture("Photo of the cat, catlike", "cat", tmp_path) == ("Photo of ", tmp_path, ", catlike")
    assert with_picture("Snow on A Cat", "cat", tmp_path) == ("Snow on ", tmp_path)
    assert with_picture("A cat", "cat", tmp_path) == (tmp_path, "")  # else it would be autoencoded


def test_cobsat_prompts(tmp_path):
    opened = open_benchmark("cobsat_2", cobsat_folder(tmp_path))
    assert len(opened.tasks) == 2 * 1000
    for task in opened.tasks:
        first, one, second, other, query = task.prompt
        said = [word.removesuffix(": ") for word in (first, second, query)]
        assert len(set(said)) == 3 and query == f"{task.extra['said']}: "
        for word, picture in zip(said, (one, other), strict=False):
            assert set(picture.stem.split("_")) == {word, task.extra["latent"]}
    kinds = {task.id.split("/")[0]: task for task in opened.tasks}
    assert kinds.keys() == {"color_object", "color_detail"}
    assert kinds["color_object"].extra["latent_options"] == ["car", "hat", "leaf"]
    again = open_benchmark("cobsat_2", tmp_path, split="color")
    assert [task.prompt for task in again.tasks] == [task.prompt for task in opened.tasks]


def test_cobsat_judges_both_words(tmp_path):
    class Knows(MeanColour):
        """Sees colours; every picture is one of a hat."""

        def texts(self, texts):
            if any(text in COLOURS for text in texts):
                return super().texts(texts)
            return torch.tensor([[float(text == "hat")] * 3 for text in texts])

    opened = open_benchmark("cobsat_2", cobsat_folder(tmp_path))
    hat = next(task for task in opened.tasks if task.text == "red hat")
    car = next(task for task in opened.tasks if task.text == "red car")
    judges = Judges([Knows()])
    assert opened.task_figures(hat, [plain("red")], judges) == dict(total=1, latent=1, non_latent=1)
    assert opened.task_figures(hat, [plain("blue")], judges)["total"] == 0
    figures = opened.task_figures(car, [plain("red")], judges)
    assert figures["total"] == 0 and figures["latent"] + figures["non_latent"] == 1


def test_cobsat_needs_an_encoder_that_reads(tmp_path):
    opened, judges = open_benchmark("cobsat_2", cobsat_folder(tmp_path), limit=2), Judges([])
    figures, rows = opened.score(opened.tasks, lambda task: [plain("red")], judges)
    assert figures == {} and rows == [{}, {}] and "clip" in opened.left_out(judges)["total, latent, non_latent"]


@pytest.mark.parametrize(
    ("name", "split", "told"),
    [("cobsat_4", None, "4 shots need one more"), ("cobsat_2", "style", "kinds of detail there: color")],
)
def test_cobsat_that_is_too_small(tmp_path, name, split, told):
    with pytest.raises(UserError, match=told):
        open_benchmark(name, cobsat_folder(tmp_path), split)


def test_autoencoding(tmp_path):
    for place, colour in enumerate(("red", "green", "blue", "white")):
        (tmp_path / "deep").mkdir(exist_ok=True)
        plain(colour, (40, 30)).save(tmp_path / "deep" / f"{place}.png")
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / "deep" / "._0.png").write_text("what some systems leave in archives")
    opened = open_benchmark("autoencoding", tmp_path)
    assert [task.id for task in opened.tasks] == [f"deep/{place}.png" for place in range(4)]
    assert all(len(task.prompt) == 1 and task.references == task.prompt for task in opened.tasks)
    drawn = DrawnPictures(tmp_path / "drawn", 1)
    for task in opened.tasks:
        drawn.write(task, 0, Image.open(task.prompt[0]))
    figures, rows = opened.score(opened.tasks, drawn.read, colour_judges(inception=ColourMoments()))
    assert figures["ssim"] == pytest.approx(1) and figures["colour_i"] == pytest.approx(1)
    assert figures["fid"] == pytest.approx(0, abs=1e-6) and abs(figures["kid"]) < 0.5
    assert opened.left_out(colour_judges()).keys() == {"fid, kid"}
    assert len(rows) == 4 and "fid" not in opened.score(opened.tasks, drawn.read, colour_judges())[0]


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(UserError, match="no pictures in"):
        open_benchmark("autoencoding", tmp_path)
