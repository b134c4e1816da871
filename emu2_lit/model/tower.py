"""The visual encoder alone: what the visual decoder learns from, without the language model."""

from torch import Tensor, nn

from emu2_lit.model.configuration import Emu2Config
from emu2_lit.model.vision import Emu2VisionModel, pool


class Emu2Tower(nn.Module):
    """The tower under its names in the whole model, so that `load_model(..., only=TOWER)` fills it."""

    _no_split_modules = ["Block"]

    def __init__(self, config: Emu2Config):
        super().__init__()
        self.config = config
        self.model = nn.Module()
        self.model.visual = Emu2VisionModel(config.vision_config)

    def encode_image(self, pixel_values: Tensor, n_query: int | None = None) -> Tensor:
        """Pooled features as `Emu2ForConditionalGeneration.encode_image` gives them: (images, n_query, width)."""
        return pool(self.model.visual(pixel_values), n_query or self.config.n_query)

    def null_image(self) -> Tensor:
        """The picture whose embeddings say nothing: zeros after normalising, (1, 3, size, size)."""
        size = self.config.vision_config.image_size
        return self.model.visual.cls_token.new_zeros(1, 3, size, size)
