"""The unified autoregressive objective: text by cross-entropy, pictures by regression (paper section 2.2)."""

from typing import Any

import torch
from torch import Tensor

from emu2_lit.errors import UserError
from emu2_lit.model import Emu2Output
from emu2_lit.modules.base import TuningModule


class UnifiedTuning(TuningModule):
    """Next-element prediction on interleaved text, pictures and frames; the tower is frozen by default.

    The text loss is the mean over all text targets of the global batch, the visual loss the mean over all its visual
    targets and dimensions; the paper gives no weight between them. Every `gradient_norm_interval` steps the norms of
    their gradients at the last hidden state are logged, unweighted: `train/text_grad_norm`, `train/visual_grad_norm`.

    Args:
        visual_loss_weight: how much the visual loss counts beside the text loss.
        gradient_norm_interval: optimizer steps between two measurements; 0 measures nothing.
    """

    kinds = ("text", "visual")
    default_frozen = ("visual",)

    def __init__(self, *args, visual_loss_weight: float = 1.0, gradient_norm_interval: int = 100, **kwargs):
        super().__init__(*args, **kwargs)
        if visual_loss_weight < 0:
            raise UserError(f"tuning.visual_loss_weight: {visual_loss_weight} is below zero")
        self.visual_loss_weight, self.gradient_norm_interval = visual_loss_weight, gradient_norm_interval
        self._squared_norms: dict[str, Tensor] = {}

    def loss_weight(self, kind: str) -> float:
        return self.visual_loss_weight if kind == "visual" else 1.0

    def losses(self, batch: dict[str, Any]) -> dict[str, tuple[Tensor, Tensor]]:
        output = self.model(
            **self.inputs(batch), labels=batch["labels"], visual_targets_mask=batch["visual_targets_mask"]
        )
        if self._measures(batch):
            self._measure(output, batch["window"])
        return {
            "text": (output.text_loss, output.text_targets),
            "visual": (output.visual_loss, output.visual_targets),
        }

    def _measures(self, batch: dict[str, Any]) -> bool:
        interval = self.gradient_norm_interval
        return bool(self.training and interval and "window" in batch and batch["window"]["step"] % interval == 0)

    def _measure(self, output: Emu2Output, window: dict[str, int]) -> None:
        """Add this micro-batch to the squared norms; log them when the step's last one is through."""
        for kind, loss, targets in (
            ("text", output.text_loss, output.text_targets),
            ("visual", output.visual_loss, output.visual_targets),
        ):
            share = loss * targets / max(window[f"{kind}_targets"], 1)
            (gradient,) = torch.autograd.grad(share, output.last_hidden_state, retain_graph=True, allow_unused=True)
            squared = loss.new_zeros(()) if gradient is None else gradient.detach().float().square().sum()
            self._squared_norms[kind] = squared + (self._squared_norms[kind] if window["micro_batch"] else 0.0)
        if window["micro_batch"] == window["micro_batches"] - 1:
            for kind, squared in self._squared_norms.items():
                norm = self.summed(squared).sqrt()
                self.log(f"train/{kind}_grad_norm", norm)
