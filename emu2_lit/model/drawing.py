"""Pictures out of prompts: the model says what to draw, the visual decoder draws it (paper section 2.3.2)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from emu2_lit.errors import UserError
from emu2_lit.model.configuration import Emu2Config
from emu2_lit.model.decoder import Emu2VisualDecoder
from emu2_lit.model.decoder_config import Emu2DecoderConfig
from emu2_lit.model.loading import load_model
from emu2_lit.model.modeling import Emu2ForConditionalGeneration
from emu2_lit.model.offload import lent, stays
from emu2_lit.model.processor import Emu2Processor
from emu2_lit.model.segments import Segment, parse_prompt
from emu2_lit.model.special_tokens import (
    GROUNDING,
    IMAGE_PLACEHOLDER,
    LOCATIONS,
    NEXT_OBJECT,
    OBJECT_BEGIN,
    OBJECT_END,
    PHRASE_BEGIN,
    PHRASE_END,
    VIDEO_PLACEHOLDER,
    location_token,
)
from emu2_lit.model.subjects import Subject, pictures_of, subject_segments
from emu2_lit.settings import DrawingSettings

Prompt = Sequence[Any]  # texts (str), pictures (PIL images, paths (Path) or bytes) and Subjects

_MARKUP = frozenset(
    (GROUNDING, PHRASE_BEGIN, PHRASE_END, OBJECT_BEGIN, OBJECT_END, NEXT_OBJECT, *map(location_token, range(LOCATIONS)))
)


class Emu2Generator:
    """A model, its processor and a visual decoder.

    Raises:
        UserError: model and decoder do not belong together.
    """

    def __init__(self, model: nn.Module, processor: Emu2Processor, decoder: Emu2VisualDecoder):
        width, drawn = processor.config.vision_config.hidden_size, decoder.config.condition_width
        if width != drawn:
            raise UserError(f"The model makes visual embeddings of width {width}, the decoder draws those of {drawn}")
        self.model, self.processor, self.decoder = model, processor, decoder
        self._visited: torch.device | None = None

    @classmethod
    def from_pretrained(
        cls, folder: str | Path, dtype: torch.dtype | None = None, device: torch.device | str = "cpu",
        offload: bool = False, safety_checker: bool | None = None,
    ) -> "Emu2Generator":  # fmt: skip
        """Read all of a folder of Emu2-Gen.

        Args:
            offload: keep the weights in main memory; the part that computes visits `device`.
            dtype, safety_checker: as in `decoder_files.load_decoder`.
        """
        home = "cpu" if offload else device
        model = Emu2ForConditionalGeneration.from_pretrained(folder, dtype=dtype, device=home)
        decoder = Emu2VisualDecoder.from_pretrained(folder, dtype=dtype, device=home, safety_checker=safety_checker)
        return cls(model, Emu2Processor.from_pretrained(folder), decoder)._placed(device, offload)

    @classmethod
    def from_native(
        cls, file: str | Path, tokenizer: str | Path, config: Emu2Config | None = None,
        decoder_config: Emu2DecoderConfig | None = None, dtype: torch.dtype | None = None,
        device: torch.device | str = "cpu", offload: bool = False, safety_checker: bool | None = None,
    ) -> "Emu2Generator":  # fmt: skip
        """Read all of Emu2-Gen's native file; `tokenizer` is a SentencePiece model, which that does not hold."""
        home, config = "cpu" if offload else device, config or Emu2Config.preset("emu2-gen")
        processor = Emu2Processor.from_sentencepiece(tokenizer, config)
        model = load_model(Emu2ForConditionalGeneration, file, config=config, dtype=dtype, device=home)
        decoder = Emu2VisualDecoder.from_native(
            file, decoder_config, dtype=dtype, device=home, safety_checker=safety_checker
        )
        return cls(model, processor, decoder)._placed(device, offload)

    def _placed(self, device: torch.device | str, offload: bool) -> "Emu2Generator":
        if offload:
            self.offload(device)
        return self

    def offload(self, device: torch.device | str) -> None:
        """Keep the weights in main memory; the part that computes visits `device`. A model that is spread over devices
        or held in 4 bits stays where it is."""
        if not stays(self.model):
            self.model.to("cpu")
            self._visited = torch.device(device)
        self.decoder.offload(device)

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        return self._visited or self.model.device

    # -- pictures --------------------------------------------------------------------------------------------
    def generate(
        self, prompt: Prompt | str, drawing: DrawingSettings | None = None, latents: Tensor | None = None
    ) -> list[Image.Image]:
        """Draw what a prompt of texts, pictures and subjects says.

        The parts are put together as they are, nothing between them; `<grounding>` is put first where a subject has a
        box, as training does. One picture alone is autoencoded, as in the
        published code; add an empty text to have the model go on from it. Of special strings those of grounding
        (`<grounding>`, `<phrase>`, `<object>`, ...) are read as tokens, others are plain text.

        Args:
            latents: the initial noise, in the place of the seed's; see `Emu2VisualDecoder`.
        Returns:
            `drawing.images_per_prompt` pictures.
        Raises:
            UserError: nothing in the prompt, a picture that cannot be read, or sizes that do not fit the decoder.
        """
        parts = [prompt] if isinstance(prompt, str | bytes | Path | Image.Image | Subject) else list(prompt)
        if len(parts) == 1 and not isinstance(parts[0], str | Subject):
            return self.autoencode(parts[0], drawing, latents)
        return self._draw(*self.conditions([parts]), drawing or DrawingSettings(), latents)

    def generate_all(
        self, prompts: Sequence[Prompt], drawing: DrawingSettings, seeds: Sequence[int]
    ) -> list[list[Image.Image]]:
        """Draw several prompts at once; none is a picture alone.

        Args:
            seeds: of each prompt's first picture, in the place of `drawing.seed`.
        Returns:
            `drawing.images_per_prompt` pictures of each.
        """
        count = drawing.images_per_prompt
        drawn = self._draw(*self.conditions(prompts), drawing, None, seeds)
        return [drawn[start : start + count] for start in range(0, len(drawn), count)]

    def edit(
        self, picture: Any, instruction: str, drawing: DrawingSettings | None = None, latents: Tensor | None = None
    ) -> list[Image.Image]:
        """Draw a picture again, changed as told (paper, supplement D.1: the picture, then the instruction)."""
        return self.generate([picture, instruction], drawing, latents)

    def autoencode(
        self, picture: Any, drawing: DrawingSettings | None = None, latents: Tensor | None = None
    ) -> list[Image.Image]:
        """Draw a picture from its own embeddings; the language model has no part in it."""
        return self._draw(*self.picture_conditions([picture]), drawing or DrawingSettings(), latents)

    def _draw(
        self, embeds: Tensor, null: Tensor, drawing: DrawingSettings, latents: Tensor | None, seeds: Sequence[int] = ()
    ) -> list[Image.Image]:
        firsts = seeds or [drawing.seed]
        generators = [torch.Generator().manual_seed(s + i) for s in firsts for i in range(drawing.images_per_prompt)]
        return self.decoder(
            embeds, null, drawing.guidance_scale, drawing.steps, drawing.height, drawing.width, latents=latents,
            generator=generators, images_per_prompt=drawing.images_per_prompt,
        )  # fmt: skip

    # -- conditions ------------------------------------------------------------------------------------------
    @torch.no_grad()
    def conditions(self, prompts: Sequence[Prompt]) -> tuple[Tensor, Tensor]:
        """Visual embeddings regressed after each prompt, and after an empty one.

        Returns:
            (prompts, n_query, visual width) and (1, n_query, visual width): what the decoder takes.
        """
        batch = self._batch([*prompts, [""]])
        with lent(self.model, self.device):
            embeds = self.model.generate_image(**{key: value.to(self.device) for key, value in batch.items()})
        return embeds[:-1], embeds[-1:]

    @torch.no_grad()
    def picture_conditions(self, pictures: Sequence[Any]) -> tuple[Tensor, Tensor]:
        """Embeddings of pictures, and of an empty one (zeros after normalising, as in the published code).

        Returns:
            (pictures, n_query, visual width) and (1, n_query, visual width).
        """
        pixels = self.processor.pixels(pictures)
        with lent(self.model, self.device):
            embeds = self.model.encode_image(torch.cat([pixels, torch.zeros_like(pixels[:1])]).to(self.device))
        return embeds[:-1], embeds[-1:]

    def _batch(self, prompts: Sequence[Prompt]) -> dict[str, Tensor]:
        segments = [prompt_segments(prompt) for prompt in prompts]
        batch = self.processor.pad([self.processor.encode_segments(one)[0] for one in segments])
        pictures = [picture for prompt in prompts for part in prompt for picture in pictures_of(part)]
        return batch | ({"pixel_values": self.processor.pixels(pictures)} if pictures else {})


def prompt_segments(prompt: Prompt) -> list[Segment]:
    """A prompt of texts, pictures and subjects, put together as it is, marked where a subject has a box.

    Raises:
        UserError: there is nothing in it.
    """
    if not prompt:
        raise UserError("nothing to draw: the prompt holds neither text nor picture")
    segments = [piece for part in prompt for piece in _pieces(part)]
    mark = Segment("token", GROUNDING)
    placed = any(isinstance(part, Subject) and part.box is not None for part in prompt)
    return [mark, *segments] if placed and mark not in segments else segments


def _pieces(part: Any) -> list[Segment]:
    if isinstance(part, str):
        return [_plain(piece) for piece in parse_prompt(part)]
    return subject_segments(part) if isinstance(part, Subject) else [Segment("image")]


def _plain(piece: Segment) -> Segment:
    """The piece; as text unless it is text or markup of grounding."""
    if piece.kind in ("text", "token"):
        return piece if piece.text in _MARKUP else Segment("text", piece.text)
    return Segment("text", IMAGE_PLACEHOLDER if piece.kind == "image" else VIDEO_PLACEHOLDER)
