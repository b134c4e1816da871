"""LightningModules: one objective each, over a small shared base."""

from emu2_lit.modules.base import TuningModule
from emu2_lit.modules.chat import CaptionTuning, ChatTuning

OBJECTIVES = {"chat": ChatTuning, "caption": CaptionTuning}

__all__ = ["OBJECTIVES", "CaptionTuning", "ChatTuning", "TuningModule"]
