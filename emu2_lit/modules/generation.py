"""Generation tuning: only the last picture of a sequence is regressed (paper section 2.3.2)."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics import Metric

from emu2_lit.modules.base import TuningModule


class GenerationTuning(TuningModule):
    """Emu2-Gen: the pooled embeddings of a sample's last picture are learned; texts and other pictures are its prompt.

    The tower is frozen, and so is the head of the vocabulary, which this loss does not reach. Logged beside the loss,
    as means over the learned pictures: `val/cosine` and `train/cosine`, the cosine of predicted and true embeddings,
    and the same by place in the picture, `val/cosine_position_00` and on.
    """

    kinds = ("visual",)
    default_frozen = ("visual", "lm_head")

    def configure_model(self) -> None:
        super().configure_model()
        self.train_cosine = PositionCosine(self.processor.n_query)
        self.val_cosine = PositionCosine(self.processor.n_query)

    def losses(self, batch: dict[str, Any]) -> dict[str, tuple[Tensor, Tensor]]:
        output = self.model(**self.inputs(batch), visual_targets_mask=batch["visual_targets_mask"])
        cosine = self.train_cosine if self.training else self.val_cosine
        cosine.update(output.regression.detach(), output.regression_targets)
        return {"visual": (output.visual_loss, output.visual_targets)}

    def on_before_optimizer_step(self, optimizer) -> None:
        super().on_before_optimizer_step(optimizer)
        if (self.global_step + 1) % max(self.trainer.log_every_n_steps, 1) == 0 and self.completes_step():
            self.log("train/cosine", self.train_cosine.compute().mean())
            self.train_cosine.reset()

    def on_validation_epoch_end(self) -> None:
        super().on_validation_epoch_end()
        cosines = self.val_cosine.compute()
        self.val_cosine.reset()
        if cosines.isnan().any():  # nothing to draw in the validation data
            return
        self.log("val/cosine", cosines.mean(), prog_bar=True)
        for place, cosine in enumerate(cosines):
            self.log(f"val/cosine_position_{place:02d}", cosine)


class PositionCosine(Metric):
    """Mean cosine of predicted and true embeddings, by place in the picture: (n_query,); NaN before any picture."""

    full_state_update = False

    def __init__(self, n_query: int):
        super().__init__()
        self.add_state("total", torch.zeros(n_query), dist_reduce_fx="sum")
        self.add_state("pictures", torch.zeros(()), dist_reduce_fx="sum")

    def update(self, predicted: Tensor, true: Tensor) -> None:
        """predicted, true: (pictures * n_query, width), picture by picture."""
        cosines = F.cosine_similarity(predicted.float(), true.float(), dim=-1).view(-1, len(self.total))
        self.total += cosines.sum(0)
        self.pictures += len(cosines)

    def compute(self) -> Tensor:
        return self.total / self.pictures
