"""The visual decoder that a recipe or a command names."""

from pathlib import Path

import torch

from emu2_lit.errors import UserError
from emu2_lit.model import Emu2DecoderConfig, Emu2VisualDecoder
from emu2_lit.model.decoder_config import DECODER_PRESETS
from emu2_lit.weights import local_folder


def open_decoder(
    name: str | None, dtype: torch.dtype | None = None, device: torch.device | str = "cpu",
    safety_checker: bool | None = None,
) -> Emu2VisualDecoder:  # fmt: skip
    """A decoder of Emu2-Gen's folder, native file or hub name, or of a preset with random weights.

    Raises:
        UserError: no name is given, there is none, or diffusers is not installed.
    """
    if not name:
        raise UserError("model.decoder: say what draws, such as Emu2-Gen's folder")
    if name in DECODER_PRESETS and not Path(name).exists():
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return Emu2VisualDecoder(Emu2DecoderConfig.preset(name)).to(device, dtype).eval()
    path = Path(name).expanduser()
    path = path if path.exists() else local_folder(name)
    read = Emu2VisualDecoder.from_native if path.is_file() else Emu2VisualDecoder.from_pretrained
    return read(path, dtype=dtype, device=device, safety_checker=safety_checker)
