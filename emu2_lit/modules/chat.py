"""Instruction tuning: cross-entropy on what is marked learned (paper section 2.3.1)."""

from typing import Any

from torch import Tensor

from emu2_lit.modules.base import TuningModule


class TextTuning(TuningModule):
    """Next-token loss on the learned text of a sample."""

    def losses(self, batch: dict[str, Any]) -> dict[str, tuple[Tensor, Tensor]]:
        output = self.model(**self.inputs(batch), labels=batch["labels"])
        return {"text": (output.text_loss, output.text_targets)}


class ChatTuning(TextTuning):
    """Emu2-Chat: answers and their end are learned. The loss does not reach `project_down`; the tower is frozen
    by default. A base model is given the two role tokens."""

    needs_role_tokens = True
    default_frozen = ("visual", "project_down")


class CaptionTuning(TextTuning):
    """Captions: the text that goes with a picture is learned, tower included (paper section 2.2, stage 1)."""

    default_frozen = ("project_down",)
