"""FID and KID: how far apart two sets of pictures are, through torchmetrics."""

import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from emu2_lit.errors import UserError

KID_SUBSETS, KID_SUBSET_SIZE = 100, 1000  # torchmetrics' own; smaller sets take all of their pictures


def load_inception(path: str | Path) -> nn.Module:
    """The Inception-v3 of FID (torch-fidelity's file pt_inception-2015-12-05-*.pth), from this disk.

    Raises:
        UserError: the file is missing or another one, or torch-fidelity is not installed.
    """
    from torchmetrics.image.fid import NoTrainInceptionV3

    if not Path(path).is_file():
        raise UserError(f"evaluation.encoders.inception: no such file: {path}; nothing is downloaded")
    try:
        return NoTrainInceptionV3("inception-v3-compat", ["2048"], str(path))
    except ModuleNotFoundError as error:
        raise UserError("FID and KID need torch-fidelity: pip install torch-fidelity") from error
    except Exception as error:  # torch raises errors of every kind on damaged or other networks' files
        raise UserError(f"{path}: not the Inception-v3 of FID ({error})") from error


class Distances:
    """FID and KID of pictures that come one after the other.

    Args:
        inception: uint8 pictures (n, 3, height, width) to features (n, width).
    """

    def __init__(self, inception: nn.Module):
        self.inception = inception
        self._features: dict[bool, list[Tensor]] = {True: [], False: []}

    @torch.no_grad()
    def add(self, pixels: Tensor, real: bool) -> None:
        """Take up pictures (n, 3, height, width), uint8."""
        weight = next(self.inception.parameters(), pixels)
        self._features[real].append(self.inception(pixels.to(weight.device)).double().cpu())

    def figures(self) -> dict[str, float]:
        """`fid` and `kid` (the mean over its subsets); empty for fewer than two pictures of a kind."""
        from torchmetrics.image.fid import FrechetInceptionDistance
        from torchmetrics.image.kid import KernelInceptionDistance

        features = {real: torch.cat(rows) for real, rows in self._features.items() if rows}
        smallest = min(len(features.get(real, ())) for real in (True, False))
        if smallest < 2:
            return {}
        given = _Given(features[True].shape[1])
        with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
            warnings.simplefilter("ignore")  # KID tells that it keeps features
            torch.manual_seed(0)  # of its subsets
            fid = FrechetInceptionDistance(given, sync_on_compute=False)
            kid = KernelInceptionDistance(
                given, KID_SUBSETS, min(KID_SUBSET_SIZE, smallest), sync_on_compute=False
            )  # fmt: skip
            for metric in (fid, kid):
                for real, rows in features.items():
                    metric.update(rows, real=real)
            return {"fid": float(fid.compute()), "kid": float(kid.compute()[0])}


class _Given(nn.Module):
    """Stands for the network where its features are there already."""

    def __init__(self, num_features: int):
        super().__init__()
        self.num_features = num_features

    def forward(self, features: Tensor) -> Tensor:
        return features
