"""Texts, pictures and video frames to what the network takes, and ids back to text."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import BatchFeature

from emu2_lit.errors import UserError
from emu2_lit.model.chat_template import chat_segments, messages_to_turns
from emu2_lit.model.configuration import TINY_VOCAB_SIZE, Emu2Config
from emu2_lit.model.images import ImageError, load_image, pixel_values
from emu2_lit.model.loading import read_config
from emu2_lit.model.segments import Segment, parse_prompt, render
from emu2_lit.model.tiny_tokenizer import tiny_tokenizer_model
from emu2_lit.model.tokenizer import MODEL_FILE, Emu2Tokenizer

CONFIG_FILE = "processor_config.json"


class Emu2Processor:
    """Tokenizer and picture preparation of one model.

    Args:
        config: its `n_query`, `v_query` and picture size are used; its vocabulary is checked against the tokenizer.
    Raises:
        UserError: tokenizer and embedding rows do not belong together.
    """

    def __init__(self, tokenizer: Emu2Tokenizer, config: Emu2Config):
        config.set_vocabulary(tokenizer.base_vocab_size, tokenizer.chat)
        self.tokenizer, self.config = tokenizer, config
        self.n_query, self.v_query = config.n_query, config.v_query
        self.image_size = config.vision_config.image_size
        self.features: Any = None  # a `FeatureStore` whose rows stand in for the pixels of samples

    @classmethod
    def from_sentencepiece(cls, path: str | Path, config: Emu2Config, chat: bool | None = None) -> "Emu2Processor":
        """From a SentencePiece `tokenizer.model`; `chat` defaults to what the configuration says."""
        return cls(Emu2Tokenizer.from_sentencepiece(path, config.chat if chat is None else chat), config)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> "Emu2Processor":
        """From a folder that `save_pretrained` wrote, or that of a model, in our form or as published.

        Raises:
            UserError: the configuration or `tokenizer.model` is missing or damaged.
        """
        folder = Path(folder)
        tokenizer = folder if (folder / MODEL_FILE).is_file() else folder / "tokenizer"  # Emu2-Gen keeps it apart
        return cls.from_sentencepiece(tokenizer if tokenizer.is_dir() else folder, _read_config(folder))

    @classmethod
    def for_config(cls, config: Emu2Config) -> "Emu2Processor":
        """For the small presets, with the tokenizer that the project builds itself.

        Raises:
            UserError: the model is of another vocabulary, whose tokenizer must be given.
        """
        if config.base_vocab_size != TINY_VOCAB_SIZE:
            raise UserError(
                f"A model with a vocabulary of {config.base_vocab_size} needs its tokenizer: put tokenizer.model "
                "beside its weights, or set model.tokenizer to it"
            )
        return cls(Emu2Tokenizer(tiny_tokenizer_model(), config.chat), config)

    def with_role_tokens(self) -> "Emu2Processor":
        """The processor of the same model with the role tokens of chat models."""
        return Emu2Processor(Emu2Tokenizer(self.tokenizer.model_bytes, True), self.config.with_role_tokens())

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the tokenizer and `processor_config.json`."""
        self.tokenizer.save_pretrained(folder)
        self.config.to_json_file(Path(folder) / CONFIG_FILE, use_diff=False)

    # -- tensors ---------------------------------------------------------------------------------------------
    def __call__(
        self, text: str | Sequence[str], images: Sequence[Any] | None = None, videos: Sequence[Any] | None = None
    ) -> BatchFeature:
        """A left-padded batch of raw prompts, in which special strings are tokens; `.to(device)` moves it.

        Args:
            text: prompts; `[<IMG_PLH>]` stands for a picture, `[<VID_PLH>]` for a video frame.
            images: what `load_image` takes, in reading order over all prompts, or a list of such per prompt.
            videos: frames in reading order, or a list of videos, each a list of frames.
        Returns:
            input_ids, attention_mask: (batch, length); pixel_values: (images, 3, size, size); video_pixel_values:
            (frames, 3, size, size).
        Raises:
            UserError: not as many pictures as placeholders, or one cannot be read.
        """
        prompts = [parse_prompt(one, self.tokenizer.chat) for one in ([text] if isinstance(text, str) else text)]
        images, frames = _flat(images), _flat(videos)
        for kind, given in (("image", images), ("frame", frames)):
            slots = sum(segment.kind == kind for prompt in prompts for segment in prompt)
            if slots != len(given):
                raise UserError(f"{slots} {kind} placeholders in the text, {len(given)} {kind}s given")
        batch = self.pad([self.encode_segments(prompt)[0] for prompt in prompts])
        if images:
            batch["pixel_values"] = self.pixels(images)
        if frames:
            batch["video_pixel_values"] = self.pixels(frames)
        return BatchFeature(batch)

    def encode_segments(self, segments: Iterable[Segment]) -> tuple[list[int], list[bool]]:
        """Ids of a prompt, BOS first, with every slot of its pictures, and which of them are learned."""
        return self.tokenizer.encode_segments(segments, self.n_query, self.v_query)

    def pad(self, ids: Sequence[Sequence[int]], side: str = "left") -> dict[str, Tensor]:
        """input_ids and attention_mask of rows of different lengths."""
        length = max(map(len, ids))
        input_ids = torch.full((len(ids), length), self.tokenizer.pad_id)
        attention_mask = torch.zeros_like(input_ids)
        for row, tokens in enumerate(ids):
            place = slice(length - len(tokens), None) if side == "left" else slice(0, len(tokens))
            input_ids[row, place] = torch.tensor(tokens)
            attention_mask[row, place] = 1
        return {"input_ids": input_ids, "attention_mask": attention_mask}

    def pixels(self, images: Sequence[Any]) -> Tensor:
        """Pictures as the tower takes them, (images, 3, size, size).

        Raises:
            UserError: one cannot be read.
        """
        try:
            return torch.stack([pixel_values(load_image(image), self.image_size) for image in images])
        except ImageError as error:
            raise UserError(str(error)) from error

    # -- text ------------------------------------------------------------------------------------------------
    def apply_chat_template(self, messages: Sequence[dict[str, Any]], grounding: bool = False) -> str:
        """The native prompt string of messages in the form of OpenAI or Hugging Face; ends in " [ASSISTANT]:"."""
        return render(chat_segments(messages_to_turns(messages), grounding=grounding))

    def batch_decode(self, ids: Iterable, skip_special_tokens: bool = True) -> list[str]:
        """Texts of rows of ids."""
        return self.tokenizer.batch_decode(ids, skip_special_tokens)

    def decode(self, ids: Iterable, skip_special_tokens: bool = True) -> str:
        """The text of one row of ids."""
        return self.tokenizer.decode(ids, skip_special_tokens)


def _read_config(folder: Path) -> Emu2Config:
    file = folder / CONFIG_FILE
    try:
        values = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    except ValueError as error:
        raise UserError(f"{file}: not valid JSON ({error})") from error
    if "vision_config" in values:
        return Emu2Config.from_dict(values)
    if not next(folder.glob("**/config.json"), None):
        raise UserError(f"{folder}: neither {CONFIG_FILE} nor config.json is here, so this is no processor's folder")
    return read_config(folder)


def _flat(pictures: Any) -> list[Any]:
    """One picture, a list of pictures or a list of lists, as a list."""
    if pictures is None:
        return []
    if not isinstance(pictures, list | tuple):
        return [pictures]
    return [picture for one in pictures for picture in _flat(one)]
