"""Instruction tuning: cross-entropy on what is marked learned (paper section 2.3.1)."""

from typing import Any

from torch import Tensor
from torchmetrics import MeanMetric

from emu2_lit.modules.base import TuningModule


class TextTuning(TuningModule):
    """Next-token loss on the learned text of a sample."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.validation_loss = MeanMetric()
        self.validated_at: int | None = None  # the step of the last validation

    def losses(self, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
        output = self.model(**self.inputs(batch), labels=batch["labels"])
        return output.text_loss * output.text_targets, output.text_targets

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        loss_sum, targets = self.losses(batch)
        self.validation_loss.update(loss_sum / targets.clamp(min=1), weight=targets)
        self.log("val/loss", self.validation_loss, prog_bar=True)

    def on_validation_end(self) -> None:
        self.validated_at = self.global_step


class ChatTuning(TextTuning):
    """Emu2-Chat: answers and their end are learned. The loss does not reach `project_down`; the tower is frozen
    by default. A base model is given the two role tokens."""

    needs_role_tokens = True
    default_frozen = ("visual", "project_down")


class CaptionTuning(TextTuning):
    """Captions: the text that goes with a picture is learned, tower included (paper section 2.2, stage 1)."""

    default_frozen = ("project_down",)
