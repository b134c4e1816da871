"""How like what they should show drawn pictures are: by pixels, by encoders, and among themselves."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from statistics import fmean

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from emu2_lit.evaluation.encoders import Judges


def alike(drawn: Sequence[Image.Image], references: Sequence, text: str, judges: Judges) -> dict[str, float]:
    """Mean cosine of every drawn picture with every reference, and with the text, by each encoder.

    So are DINO, CLIP-I and CLIP-T defined in DreamBooth (https://arxiv.org/abs/2208.12242, section 4.1).

    Args:
        references: pictures, kept once encoded; none: no likeness of pictures.
        text: what the pictures should show; empty: no likeness to a text.
    """
    figures: dict[str, float] = {}
    for encoder in judges.encoders:
        vectors = encoder.pictures(drawn)
        if references:
            real = judges.references(encoder, references)
            figures[encoder.picture_metric] = float((vectors @ real.T).mean())
        if text and encoder.text_metric:
            figures[encoder.text_metric] = float((vectors @ encoder.texts([text]).T).mean())
    return figures


def pixel_fidelity(drawn: Image.Image, original: Image.Image) -> dict[str, float]:
    """`psnr` (dB) and `ssim` (Wang et al., 2004, as in torchmetrics) of a picture drawn again.

    The original is squashed to the size of the drawn one, as the tower sees it squashed.
    """
    from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

    squashed = original.resize(drawn.size, Image.Resampling.BICUBIC)
    made, real = (pixels(one).float() / 255 for one in (drawn, squashed))
    error = float((made - real).square().mean())
    return {
        "psnr": float(peak_signal_noise_ratio(made, real, data_range=1.0)) if error else float("inf"),
        "ssim": float(structural_similarity_index_measure(made, real, data_range=1.0)),
    }


def diversity(drawn: Sequence[Image.Image]) -> float:
    """Mean absolute difference of the pixels of two pictures, 0..1, over all pairs of one prompt's; nan for one."""
    arrays = [np.asarray(one.convert("RGB"), dtype=np.float32) / 255 for one in drawn]
    pairs = [float(np.abs(one - other).mean()) for one, other in combinations(arrays, 2)]
    return fmean(pairs) if pairs else float("nan")


def pixels(picture: Image.Image) -> Tensor:
    """(1, 3, height, width) uint8."""
    return torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1)[None]


def averaged(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The mean of every figure over the rows that have it."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    return {name: fmean(row[name] for row in rows if name in row) for name in names}
