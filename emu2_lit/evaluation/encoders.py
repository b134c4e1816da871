"""What judges drawn pictures: networks that turn pictures, and some of them texts, into unit vectors."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from emu2_lit.errors import UserError
from emu2_lit.evaluation.distances import load_inception
from emu2_lit.evaluation.pictures import Pictures, content
from emu2_lit.model.images import MEAN, STD, ImageError, load_image
from emu2_lit.samples.sample import picture_name
from emu2_lit.settings import EncoderSettings
from emu2_lit.weights import local_folder

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_AT_ONCE = 32  # pictures in one pass


class PictureEncoder(Protocol):
    """Pictures (and texts) as unit vectors, whose products say how alike they are.

    Attributes:
        picture_metric: what the likeness of two pictures is called, such as `dino`.
        text_metric: what that of a picture and a text is called; None: it reads no texts.
    """

    picture_metric: str
    text_metric: str | None

    def pictures(self, values: Sequence[Any]) -> Tensor:
        """(pictures, width) float32 on the CPU, of image values. Raises UserError: one cannot be read."""

    def texts(self, texts: Sequence[str]) -> Tensor:
        """(texts, width) float32 on the CPU."""


class DinoEncoder:
    """DINO's class token; the published protocol takes ViT-S/16 (https://arxiv.org/abs/2208.12242), DreamBench++ S/8.

    Args:
        folder: a ViT of transformers, such as facebook/dino-vits16, on this disk or fetched by that name.
    Raises:
        UserError: there is none.
    """

    picture_metric, text_metric = "dino", None

    def __init__(self, folder: str | Path, device: torch.device | str = "cpu"):
        from transformers import ViTModel

        self.model = _from_disk(ViTModel, folder, add_pooling_layer=False).to(device)
        self.size = self.model.config.image_size

    @torch.no_grad()
    def pictures(self, values: Sequence[Any]) -> Tensor:
        resized = round(self.size * 256 / 224)
        return _in_passes(
            lambda pixels: self.model(pixels.to(self.model.device)).last_hidden_state[:, 0],
            [cropped(read(value), resized, self.size, IMAGENET_MEAN, IMAGENET_STD) for value in values],
        )

    def texts(self, texts: Sequence[str]) -> Tensor:
        raise UserError("DINO reads no texts")


class ClipEncoder:
    """CLIP; the published protocol takes openai/clip-vit-base-patch32.

    Args:
        folder: a CLIP of transformers with its tokenizer, on this disk or fetched by its hub name.
    Raises:
        UserError: there is none.
    """

    picture_metric, text_metric = "clip_i", "clip_t"

    def __init__(self, folder: str | Path, device: torch.device | str = "cpu"):
        from transformers import CLIPModel, CLIPTokenizer

        self.model = _from_disk(CLIPModel, folder).to(device)
        self.tokenizer = _from_disk(CLIPTokenizer, folder)
        self.size = self.model.config.vision_config.image_size

    @torch.no_grad()
    def pictures(self, values: Sequence[Any]) -> Tensor:
        return _in_passes(self._project, [cropped(read(value), self.size, self.size, MEAN, STD) for value in values])

    def _project(self, pixels: Tensor) -> Tensor:
        pooled = self.model.vision_model(pixel_values=pixels.to(self.model.device)).pooler_output
        return self.model.visual_projection(pooled)

    @torch.no_grad()
    def texts(self, texts: Sequence[str]) -> Tensor:
        longest = self.model.config.text_config.max_position_embeddings
        batch = self.tokenizer(list(texts), padding=True, truncation=True, max_length=longest, return_tensors="pt")
        pooled = self.model.text_model(**batch.to(self.model.device)).pooler_output
        return F.normalize(self.model.text_projection(pooled).float(), dim=-1).cpu()


class TowerEncoder:
    """The mean visual token of the model's own tower: needs no other weights. Not comparable between models."""

    picture_metric, text_metric = "embedding_cosine", None

    def __init__(self, model: nn.Module, processor: Any):
        self._pictures = Pictures(model, processor, capacity=2**28)

    def pictures(self, values: Sequence[Any]) -> Tensor:
        return F.normalize(self._pictures.features([_plain(value) for value in values]), dim=-1).cpu()

    def texts(self, texts: Sequence[str]) -> Tensor:
        raise UserError("the tower reads no texts")


@dataclass
class Judges:
    """All that drawn pictures are scored with.

    Attributes:
        inception: features of uint8 pictures (n, 3, height, width), for FID and KID.
        left_out: figure of an encoder -> why it cannot be had.
    """

    encoders: list[PictureEncoder]
    inception: nn.Module | None = None
    left_out: dict[str, str] = field(default_factory=dict)
    _kept: dict[tuple[str, str], Tensor] = field(default_factory=dict)

    def references(self, encoder: PictureEncoder, paths: Sequence[Any]) -> Tensor:
        """(pictures, width): vectors of real pictures, each encoded once."""
        keys = [(encoder.picture_metric, str(path)) for path in paths]
        if missing := {key: path for key, path in zip(keys, paths, strict=True) if key not in self._kept}:
            self._kept.update(zip(missing, encoder.pictures(list(missing.values())), strict=True))
        return torch.stack([self._kept[key] for key in keys])


def open_judges(settings: EncoderSettings, model: nn.Module, processor: Any, device: torch.device | str) -> Judges:
    """The judges that the settings name.

    Raises:
        UserError: weights that are named and cannot be read.
    """
    judges = Judges([DinoEncoder(settings.dino, device)] if settings.dino else [])
    if settings.clip:
        judges.encoders.append(ClipEncoder(settings.clip, device))
    if settings.tower:
        judges.encoders.append(TowerEncoder(model, processor))
    if settings.inception:
        judges.inception = load_inception(settings.inception).to(device)
    for figures, key in (("dino", "dino"), ("clip_i, clip_t", "clip")):
        if not getattr(settings, key):
            judges.left_out[figures] = f"evaluation.encoders.{key} names no weights"
    return judges


def read(value: Any) -> Image.Image:
    """A picture as upright RGB. Raises UserError where it cannot be read."""
    try:
        return load_image(content(_plain(value)))
    except ImageError as error:
        raise UserError(f"{picture_name(value)}: {error}") from error


def cropped(picture: Image.Image, resized: int, size: int, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Shorter side to `resized` pixels (bicubic), the middle cut out, normalised: (3, size, size)."""
    short = min(picture.size)
    scaled = picture.resize([int(resized * side / short) for side in picture.size], Image.Resampling.BICUBIC)
    left, top = (round((side - size) / 2) for side in scaled.size)
    middle = scaled.crop((left, top, left + size, top + size))
    pixels = torch.from_numpy(np.array(middle, dtype=np.uint8)).permute(2, 0, 1).float() / 255
    return (pixels - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value


def _in_passes(encode, pixels: list[Tensor]) -> Tensor:
    passes = [torch.stack(pixels[start : start + _AT_ONCE]) for start in range(0, len(pixels), _AT_ONCE)]
    return F.normalize(torch.cat([encode(some).float().cpu() for some in passes]), dim=-1)


def _from_disk(kind: type, folder: str | Path, **settings: Any) -> Any:
    """A model or tokenizer of transformers; nothing is downloaded."""
    path = Path(folder).expanduser()
    path = path if path.exists() else local_folder(str(folder))
    try:
        if not issubclass(kind, nn.Module):
            return kind.from_pretrained(path, local_files_only=True, **settings)
        loaded, found = kind.from_pretrained(path, local_files_only=True, output_loading_info=True, **settings)
    except Exception as error:  # libraries raise errors of every kind on damaged or other models' files
        raise UserError(f"{path}: cannot be read as {kind.__name__} ({error})") from error
    if missing := sorted(found["missing_keys"]):  # the library would judge with random weights
        raise UserError(f"{path}: cannot be read as {kind.__name__}: {len(missing)} weights are missing, {missing[0]}")
    return loaded.eval()
