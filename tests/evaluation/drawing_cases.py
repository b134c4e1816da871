"""What the tests of drawn pictures share: folders of benchmarks in their published form, and judges that need no
weights."""

from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from skimage import data
from torch import Tensor, nn

from emu2_lit.evaluation.benchmarks.dreambench import KEPT
from emu2_lit.evaluation.encoders import Judges, read
from emu2_lit.evaluation.likeness import pixels

COLOURS = {"red": (1, 0, 0), "green": (0, 1, 0), "blue": (0, 0, 1), "grey": (1, 1, 1)}
SCENES = ["a {0} {1} in the jungle", "a {0} {1} on top of a dirt road", "a red {0} {1}", "a cube shaped {0} {1}"]
WORN = ["a {0} {1} wearing a red hat"]
CLASSES = {"cat": "cat", "cat2": "cat", "backpack": "backpack", "can": "can", "bear_plushie": "stuffed animal"}


class MeanColour:
    """A picture is its mean colour, a text the colour that it names."""

    picture_metric, text_metric = "colour_i", "colour_t"

    def pictures(self, values) -> Tensor:
        return F.normalize(torch.stack([pixels(read(value))[0].float().mean((1, 2)) + 1e-3 for value in values]), dim=1)

    def texts(self, texts) -> Tensor:
        named = [next((COLOURS[word] for word in text.split() if word in COLOURS), (1, 1, 1)) for text in texts]
        return F.normalize(torch.tensor(named).float(), dim=1)


class ColourMoments(nn.Module):
    """Stands for Inception: mean and spread of each channel."""

    def forward(self, pictures: Tensor) -> Tensor:
        values = pictures.float() / 255
        return torch.cat([values.mean((2, 3)), values.std((2, 3))], dim=1)


def colour_judges(**others) -> Judges:
    return Judges([MeanColour()], **others)


def plain(colour, size=(24, 24)) -> Image.Image:
    return Image.new("RGB", size, colour)


def prompts_file(classes: dict[str, str], scenes=SCENES, worn=WORN) -> str:
    """As published: names, then two lists of Python."""

    def listed(prompts):
        return "prompt_list = [\n" + "".join(f"'{one}'.format(unique_token, class_token),\n" for one in prompts) + "]\n"

    names = "".join(f"{subject},{noun}\n" for subject, noun in classes.items())
    return (
        f"Classes\nsubject_name,class\n{names}\nPrompts\nObject Prompts\n{listed(scenes)}\n"
        f"Live Subject Prompts\n{listed([*scenes, *worn])}"
    )


def dreambench_folder(folder: Path, classes=CLASSES) -> Path:
    """Every subject a picture of scikit-image, cut in six different ways."""
    shown = [data.chelsea(), data.coffee(), data.rocket(), data.astronaut()]
    for place, subject in enumerate(classes):
        picture = Image.fromarray(shown[place % len(shown)])
        for number in range(6):
            path = folder / "dataset" / subject / f"{number:02d}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            picture.crop((20 * number, 10, 200 + 20 * number, 210)).resize((48, 48)).save(path)
    (folder / "prompts_and_classes.txt").write_text(prompts_file(classes))
    return folder


def whole_dreambench(folder: Path) -> Path:
    """All 30 subjects with 25 prompts each; the pictures are tiny."""
    live = {subject: subject.rstrip("0123456789") for subject in KEPT if subject.startswith(("cat", "dog"))}
    classes = {subject: live.get(subject, "toy") for subject in KEPT}
    for subject in KEPT:
        for number in range(6):
            path = folder / "dataset" / subject / f"{number:02d}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            plain("red", (8, 8)).save(path)
    scenes = [f"a {{0}} {{1}} in place {number}" for number in range(25)]
    (folder / "prompts_and_classes.txt").write_text(prompts_file(classes, scenes, []))
    return folder


def cobsat_folder(folder: Path) -> Path:
    for value, colour in COLOURS.items():
        for thing in ("car", "hat", "leaf"):
            path = folder / "datasets" / f"color_{thing}" / f"{value}_{thing}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            plain(tuple(255 * one for one in colour), (16, 16)).save(path)
    return folder


def dreambench_plus_folder(folder: Path) -> Path:
    for place, (kind, subject) in enumerate({"live_subject/animal": "kitten", "object": "tea pot"}.items()):
        image, caption = folder / "images" / kind / "03.jpg", folder / "captions" / kind / "03.txt"
        for path in (image, caption):
            path.parent.mkdir(parents=True, exist_ok=True)
        plain((90 * place, 200, 30)).save(image)
        caption.write_text(f"{subject}\nA {subject} on a sofa.\nAn oil painting, sunny\n")
    return folder
