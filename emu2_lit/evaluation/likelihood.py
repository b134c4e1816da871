"""How likely a model finds each of several answers."""

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from emu2_lit.evaluation.pictures import Pictures
from emu2_lit.evaluation.prefix import Prefix, Prompt, common, left_padded, model_device


@torch.no_grad()
def choice_scores(
    model: nn.Module,
    processor: Any,
    questions: Sequence[Sequence[Prompt]],
    pictures: Pictures,
    batch_size: int = 8,
    prefix: Prefix | None = None,
) -> list[tuple[float, ...]]:
    """Log-likelihood per token of each answer, natural logarithm (Flamingo's and open_flamingo's close-ended scoring).

    What the answers to one question have in common, the question and its demonstrations, is read once.

    Args:
        model: Emu2ForConditionalGeneration, with or without adapters, in evaluation mode.
        questions: read together; of each, the prompts with one of its answers as their continuation.
        batch_size: answers scored at once.
        prefix: what all prompts begin with, if read already.
    """
    beginnings = _Beginnings(model, processor, [common(some, pictures.n_query) for some in questions], pictures, prefix)
    prompts = [(row, prompt) for row, some in enumerate(questions) for prompt in some]
    scores: list[float] = []
    for start in range(0, len(prompts), batch_size):
        scores += _scores(model, processor, prompts[start : start + batch_size], beginnings).tolist()
    found = iter(scores)
    return [tuple(next(found) for _ in some) for some in questions]


class _Beginnings:
    """The language model behind the shared part of each question: keys and values, and what it expects next."""

    def __init__(self, model: nn.Module, processor: Any, shared: list[Prompt], pictures: Pictures, prefix):
        prefix = prefix if prefix and all(prefix.begins(prompt) for prompt in shared) else None
        inputs = {k: v.to(model_device(model)) for k, v in left_padded(shared, processor, prefix).items()}
        self.mask = inputs["attention_mask"]
        self.lengths = self.mask.sum(dim=1)
        known = len(prefix) if prefix else 0
        self._cache = prefix.cache(len(shared)) if prefix else DynamicCache(config=model.lm.config)
        new = [
            image
            for prompt in shared
            for image, start in zip(prompt.pictures, prompt.starts, strict=True)
            if start >= known
        ]
        self.logits: Tensor = model(  # (questions, 1, vocabulary)
            input_ids=inputs["input_ids"][:, known:],
            attention_mask=self.mask,
            position_ids=(self.mask.cumsum(dim=1) - 1).clamp(min=0)[:, known:],
            visual_embeds=pictures.embed(new) if new else None,
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits

    def cache(self, rows: Tensor) -> DynamicCache:
        """Keys and values behind these questions, to be written on."""
        copied = deepcopy(self._cache)
        copied.batch_select_indices(rows)
        return copied


def _scores(model: nn.Module, processor: Any, prompts: Sequence[tuple[int, Prompt]], beginnings: _Beginnings) -> Tensor:
    """(prompts,) mean log-probabilities of the answers' tokens."""
    device = model_device(model)
    rows = torch.tensor([row for row, _ in prompts], device=device)
    known = beginnings.lengths[rows]
    rest = [prompt.ids[length:] for (_, prompt), length in zip(prompts, known.tolist(), strict=True)]
    batch = {key: value.to(device) for key, value in processor.pad(rest, side="right").items()}
    ids, mask = batch["input_ids"], batch["attention_mask"]
    positions = known.unsqueeze(-1) + torch.arange(ids.shape[1], device=device)
    logits = model(
        input_ids=ids,
        attention_mask=torch.cat([beginnings.mask[rows], mask], dim=1),
        position_ids=positions,
        past_key_values=beginnings.cache(rows),
        use_cache=True,
    ).logits
    predictions = torch.cat([beginnings.logits[rows].to(logits), logits[:, :-1]], dim=1).float().log_softmax(dim=-1)
    found = predictions.gather(-1, ids.unsqueeze(-1)).squeeze(-1)
    answers = torch.tensor([prompt.answer for _, prompt in prompts], device=device)
    counted = mask.bool() & (positions >= answers.unsqueeze(-1))
    return (found * counted).sum(dim=-1) / counted.sum(dim=-1)
