"""Prompts in ids, and the keys and values of what they have in common, computed once."""

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from emu2_lit.evaluation.pictures import Pictures
from emu2_lit.model.segments import Segment
from emu2_lit.samples.encoding import part_segments, to_segments
from emu2_lit.samples.sample import Part, Sample


@dataclass(frozen=True)
class Prompt:
    """ids: BOS first, with the slots of all pictures; pictures: their image values, in order; starts: where among the
    ids each begins; answer: where a continuation begins, the number of ids without one."""

    ids: list[int]
    pictures: tuple[Any, ...]
    starts: tuple[int, ...]
    answer: int

    def cut(self, length: int, picture_length: int) -> "Prompt":
        """At most the first `length` ids, less where that would cut a picture."""
        for start in self.starts:
            if start < length < start + picture_length:
                length = start
        kept = sum(start < length for start in self.starts)
        return Prompt(self.ids[:length], self.pictures[:kept], self.starts[:kept], length)


def encode(
    parts: Sequence[Part], processor: Any, n_query: int, continuation: str = "", grounding: bool = False
) -> Prompt:
    """The ids of a document, or of a conversation up to its last answer, and of the text that goes on from there.

    Args:
        grounding: the conversation asks for boxes.
    """
    sample = Sample("", tuple(parts), grounding=grounding)
    segments = to_segments(sample) if sample.is_chat else [one for part in parts for one in part_segments(part)]
    if continuation:
        segments = [*segments, Segment("text", continuation, learn=True)]
    ids, learned = processor.tokenizer.encode_segments(segments, n_query, processor.v_query)
    begin = processor.config.special_ids["[IMG]"]
    return Prompt(
        ids,
        tuple(part.value for part in parts if part.kind == "image"),
        tuple(place for place, token in enumerate(ids) if token == begin),
        learned.index(True) if True in learned else len(ids),
    )


def common(prompts: Iterable[Prompt], n_query: int) -> Prompt | None:
    """The longest beginning that all share, whole pictures included; what is left of each is its answer's text at
    least, or one token. None of no prompts."""
    shared: Prompt | None = None
    for prompt in prompts:
        length = min(prompt.answer, len(prompt.ids) - 1)
        if shared is not None:
            length = min(length, _agreeing(shared, prompt))
        shared = (shared or prompt).cut(length, n_query + 2)
    return shared


def _agreeing(one: Prompt, other: Prompt) -> int:
    pairs = enumerate(zip(one.ids, other.ids, strict=False))
    length = next((place for place, (a, b) in pairs if a != b), min(len(one.ids), len(other.ids)))
    for start, mine, theirs in zip(one.starts, one.pictures, other.pictures, strict=False):
        if start < length and not (mine is theirs or mine == theirs):
            return start
    return length


class Prefix:
    """The language model behind a prompt: its keys and values."""

    @torch.no_grad()
    def __init__(self, model: nn.Module, prompt: Prompt, pictures: Pictures):
        self.prompt, self._cache = prompt, DynamicCache(config=model.lm.config)
        ids = torch.tensor([prompt.ids], device=model_device(model))
        model(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            visual_embeds=pictures.embed(prompt.pictures) if prompt.pictures else None,
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        )

    def __len__(self) -> int:
        return len(self.prompt.ids)

    def begins(self, prompt: Prompt) -> bool:
        """Whether the prompt starts with this one and goes on."""
        return len(self) < len(prompt.ids) and _agreeing(self.prompt, prompt) == len(self)

    def cache(self, rows: int) -> DynamicCache:
        """Keys and values for `rows` rows, to be written on."""
        copied = copy.deepcopy(self._cache)
        copied.batch_repeat_interleave(rows)
        return copied


def left_padded(prompts: Sequence[Prompt], processor: Any, prefix: Prefix | None = None) -> dict[str, Tensor]:
    """input_ids and attention_mask, (prompts, length). With a prefix the padding stands behind it."""
    skipped = len(prefix) if prefix else 0
    batch = processor.pad([prompt.ids[skipped:] for prompt in prompts], side="left")
    if prefix:
        head = torch.tensor([prefix.prompt.ids]).expand(len(prompts), -1)
        batch["input_ids"] = torch.cat([head, batch["input_ids"]], dim=1)
        batch["attention_mask"] = torch.cat([torch.ones_like(head), batch["attention_mask"]], dim=1)
    return batch


def model_device(model: nn.Module) -> torch.device:
    """Where token ids go, also in a model that is spread over devices."""
    return next(model.get_input_embeddings().parameters()).device
