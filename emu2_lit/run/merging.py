"""What merging an adapter into 16 bits changes, where it was tuned on a 4-bit base (QLoRA)."""

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from PIL import Image
from torch import Tensor, nn

from emu2_lit import recipe as recipes
from emu2_lit.model import Emu2Processor
from emu2_lit.recipe.schema import ModelSection
from emu2_lit.run.result import load_run

PROMPT = "[<IMG_PLH>]What is in this picture? Describe it in one sentence."


@dataclass(frozen=True)
class MergeError:
    """Merged weights against the 4-bit base with its adapter, on one fixed prompt.

    Attributes:
        mean, largest: absolute differences of logits; spread: standard deviation of the logits.
        agreement: share of the positions at which the same token is the most likely one.
    """

    mean: float
    largest: float
    spread: float
    agreement: float

    def __str__(self) -> str:
        return (
            f"the logits of the merged weights differ from those on the 4-bit base by {self.mean:.3g} on average and "
            f"{self.largest:.3g} at most (their spread: {self.spread:.3g}); the most likely token is the same at "
            f"{self.agreement:.0%} of the positions of a fixed prompt"
        )


def tuned_on(adapter: Path) -> ModelSection | None:
    """The model section of the run that an adapter folder lies in, if its base was held in 4 bits and the
    difference can be measured here."""
    recipe = adapter.parent / "recipe.yaml"
    model = recipes.load(str(recipe)).model if recipe.is_file() else ModelSection()
    if not model.quantization:
        return None
    if find_spec("bitsandbytes") is None:
        rank_zero_info("The error of merging is not measured: that needs bitsandbytes (pip install 'emu2-lit[qlora]')")
        return None
    return model


def tuned_logits(source: Path, tuned: ModelSection, weights: dict[str, str | None]) -> Tensor:
    """Logits of the prompt as the run saw them while it was tuned: 4-bit base, adapter beside it.

    Args:
        tuned: what `tuned_on` gives.
        weights: `base`, `preset` and `tokenizer` of `load_run`.
    """
    dtype = getattr(torch, tuned.dtype)
    return prompt_logits(*load_run(source, dtype=dtype, quantization=tuned.quantization, **weights))


@torch.inference_mode()
def prompt_logits(model: nn.Module, processor: Emu2Processor) -> Tensor:
    """(length, vocabulary) float32."""
    picture = Image.radial_gradient("L").convert("RGB")
    return model.eval()(**processor(text=[PROMPT], images=[picture])).logits[0].float()


def compare(merged: Tensor, tuned: Tensor) -> MergeError:
    """Two results of `prompt_logits`."""
    difference, same = (merged - tuned).abs(), merged.argmax(-1) == tuned.argmax(-1)
    return MergeError(
        float(difference.mean()), float(difference.max()), float(tuned.std()), float(same.float().mean())
    )  # fmt: skip
