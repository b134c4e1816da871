"""DreamBench (https://arxiv.org/abs/2208.12242): 30 subjects in 25 new scenes each, from one picture of the subject.

Files, as published: prompts_and_classes.txt and dataset/{subject}/NN.jpg (or the subjects' folders themselves). The
model is shown the picture of each subject that Kosmos-G chose and Emu2 took over; where that one is not there, the
first. `split` says what the drawn pictures are compared with: `one`, the picture that was shown (the default), or
`all` real pictures of the subject, as DreamBooth did. The two differ by several points.
"""

import re
from pathlib import Path

from PIL import Image

from emu2_lit.errors import UserError
from emu2_lit.evaluation.benchmarks.files import first_of, pictures_in
from emu2_lit.evaluation.drawing_benchmark import DrawingBenchmark, DrawingTask, around
from emu2_lit.evaluation.encoders import Judges
from emu2_lit.evaluation.likeness import alike, diversity

LIVE_CLASSES = ("cat", "dog")
KEPT = {  # the number of the picture that is shown
    "pink_sunglasses": "04", "can": "01", "candle": "02", "teapot": "04", "backpack": "02", "dog3": "05",
    "cat2": "02", "dog8": "04", "grey_sloth_plushie": "04", "backpack_dog": "02", "robot_toy": "00", "dog5": "00",
    "duck_toy": "01", "dog2": "02", "dog": "02", "colorful_sneaker": "01", "red_cartoon": "00", "clock": "03",
    "shiny_sneaker": "01", "dog6": "02", "berry_bowl": "02", "bear_plushie": "03", "poop_emoji": "00",
    "rc_car": "03", "dog7": "01", "cat": "04", "fancy_boot": "02", "wolf_plushie": "04", "monster_toy": "04",
    "vase": "02",
}  # fmt: skip
# Emu2's wording, {} the picture. The paper gives the first; the others, and dropping "a" elsewhere, follow from it.
REWORDED = {
    "a red {}": "{} Make it red",
    "a purple {}": "{} Make it purple",
    "a shiny {}": "{} Make it shiny",
    "a wet {}": "{} Make it wet",
    "a cube shaped {}": "{} Make it cube shaped",
}

_PROMPT = re.compile(r"""(["'])(.*?\{.*?)\1""")


class DreamBench(DrawingBenchmark):
    """Four pictures of every subject and prompt."""

    pictures_per_task, drawn_as = 4, "dreambench"

    def __init__(self, folder: Path, split: str | None = None):
        if split not in (None, "one", "all"):
            raise UserError(f"benchmark dreambench: split {split!r} is neither `one` nor `all` (reference pictures)")
        self.name = "dreambench_all" if split == "all" else "dreambench"
        self.compared_with = "all real pictures" if split == "all" else "the one picture shown"
        classes, prompts = read_prompts(first_of(folder, "prompts_and_classes.txt", benchmark=self.name))
        root = folder / "dataset" if (folder / "dataset").is_dir() else folder
        self.tasks = [
            _task(subject, noun, number, prompt, root, split == "all")
            for subject, noun in classes.items()
            for number, prompt in enumerate(prompts[noun in LIVE_CLASSES])
        ]

    def task_figures(self, task: DrawingTask, drawn: list[Image.Image], judges: Judges) -> dict[str, float]:
        return alike(drawn, task.references, task.text, judges) | {"diversity": diversity(drawn)}


def read_prompts(file: Path) -> tuple[dict[str, str], dict[bool, list[str]]]:
    """Subject -> class, and the prompts for objects (False) and for live subjects (True), {} for the subject.

    Raises:
        UserError: the file is not in its published form.
    """
    classes: dict[str, str] = {}
    prompts: dict[bool, list[str]] = {False: [], True: []}
    live = False
    for line in file.read_text(encoding="utf-8").splitlines():
        named = re.fullmatch(r"(\w+),\s*([\w ]+?)\s*", line)
        if named and named[1] != "subject_name":
            classes[named[1]] = named[2]
        elif found := _PROMPT.search(line):
            prompts[live].append(re.sub(r"\{\w*\}(\s*\{\w*\})?", "{}", found[2]))
        elif "prompts" in line.lower():
            live = "live" in line.lower()
    if not (classes and prompts[False] and prompts[True]):
        raise UserError(
            f"{file}: {len(classes)} subjects, {len(prompts[False])} prompts for objects and {len(prompts[True])} for "
            "live subjects were found in it; expected is the file of DreamBench as it was published"
        )
    return classes, prompts


def reworded(prompt: str) -> str:
    """A prompt as Emu2 is shown it: it does not begin with "a"."""
    return REWORDED.get(prompt, prompt.removeprefix("a "))


def _task(subject: str, noun: str, number: int, prompt: str, root: Path, against_all: bool) -> DrawingTask:
    found = pictures_in(root / subject)
    if not found:
        raise UserError(f"benchmark dreambench: no pictures in {root / subject}; expected are 00.jpg, 01.jpg, ...")
    shown = next((file for file in found if file.stem == KEPT.get(subject)), found[0])
    before, after = reworded(prompt).split("{}")
    return DrawingTask(
        id=f"{subject}/{number:02d}", prompt=around(before, shown, after),
        text=prompt.replace("{}", noun), references=tuple(found if against_all else [shown]),
        extra={"subject": subject, "shown": shown.name},
    )  # fmt: skip


BENCHMARKS = {"dreambench": DreamBench}
