"""The network and its processor. Knows nothing of Lightning, recipes or data."""

from emu2_lit.model.configuration import PRESETS, Emu2Config, Emu2VisionConfig
from emu2_lit.model.decoder import Emu2VisualDecoder
from emu2_lit.model.decoder_config import Emu2DecoderConfig
from emu2_lit.model.drawing import Emu2Generator
from emu2_lit.model.modeling import Emu2ForConditionalGeneration, Emu2Output
from emu2_lit.model.processor import Emu2Processor
from emu2_lit.model.subjects import Subject

__all__ = [
    "PRESETS", "Emu2Config", "Emu2DecoderConfig", "Emu2ForConditionalGeneration", "Emu2Generator", "Emu2Output",
    "Emu2Processor", "Emu2VisionConfig", "Emu2VisualDecoder", "Subject",
]  # fmt: skip
