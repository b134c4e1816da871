"""LightningModules: one objective each, over a small shared base."""

from emu2_lit.modules.base import TuningModule
from emu2_lit.modules.chat import CaptionTuning, ChatTuning
from emu2_lit.modules.decoder import AutoencoderTuning, DecoderTuning, DrawingTuning
from emu2_lit.modules.generation import GenerationTuning
from emu2_lit.modules.unified import UnifiedTuning

OBJECTIVES = {
    "chat": ChatTuning,
    "caption": CaptionTuning,
    "unified": UnifiedTuning,
    "generation": GenerationTuning,
    "decoder": DecoderTuning,
    "autoencoder": AutoencoderTuning,
}

__all__ = [
    "OBJECTIVES", "AutoencoderTuning", "CaptionTuning", "ChatTuning", "DecoderTuning", "DrawingTuning",
    "GenerationTuning", "TuningModule", "UnifiedTuning",
]  # fmt: skip
