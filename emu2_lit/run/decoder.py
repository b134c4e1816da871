"""The visual decoder that a recipe or a command names."""

from pathlib import Path

import torch

from emu2_lit import recipe as recipes
from emu2_lit.errors import UserError
from emu2_lit.model import Emu2DecoderConfig, Emu2VisualDecoder
from emu2_lit.model.decoder_config import DECODER_PRESETS
from emu2_lit.model.decoder_files import read_decoder_config
from emu2_lit.settings import DrawingSettings
from emu2_lit.weights import local_folder


def drawing_of(run: str | Path) -> tuple[str | None, DrawingSettings]:
    """What a run's recipe draws with, and how; nothing, and the paper's values, for anything that is no run."""
    file = Path(run) / "recipe.yaml"
    if not file.is_file():
        return None, DrawingSettings()
    recipe = recipes.load(file)
    return recipe.model.decoder, recipe.drawing


def find_decoder(name: str | None) -> Path | Emu2DecoderConfig:
    """A folder or native file of a decoder, also by the run that made it or by hub name; or the configuration of a
    preset.

    Raises:
        UserError: no name is given, there is no such thing, or the run has not finished.
    """
    if not name:
        raise UserError("model.decoder: say what draws, such as Emu2-Gen's folder")
    path = Path(name).expanduser()
    if name in DECODER_PRESETS and not path.exists():
        return Emu2DecoderConfig.preset(name)
    path = path if path.exists() else local_folder(name)
    if not (path / "recipe.yaml").is_file():
        return path
    if not (path / "model" / "unet").is_dir():
        raise UserError(f"{path}: this run has not made a visual decoder: it did not finish, or trains something else")
    return path / "model"


def decoder_config(name: str | None) -> Emu2DecoderConfig:
    """The sizes of a decoder; those of native files are the published ones."""
    found = find_decoder(name)
    if isinstance(found, Emu2DecoderConfig):
        return found
    return read_decoder_config(found) if found.is_dir() else Emu2DecoderConfig.preset("emu2-gen")


def open_decoder(
    name: str | None, dtype: torch.dtype | None = None, device: torch.device | str = "cpu",
    safety_checker: bool | None = None,
) -> Emu2VisualDecoder:  # fmt: skip
    """The decoder of `find_decoder`; presets have random weights.

    Raises:
        UserError: there is none, or diffusers is not installed.
    """
    found = find_decoder(name)
    if isinstance(found, Emu2DecoderConfig):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return Emu2VisualDecoder(found).to(device, dtype).eval()
    read = Emu2VisualDecoder.from_native if found.is_file() else Emu2VisualDecoder.from_pretrained
    return read(found, dtype=dtype, device=device, safety_checker=safety_checker)
