"""How likely a model finds each of several answers."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from emu2_lit.evaluation.pictures import Pictures
from emu2_lit.evaluation.prefix import Prefix, Prompt, common, model_device


@torch.no_grad()
def choice_scores(
    model: nn.Module,
    processor: Any,
    prompts: Sequence[Prompt],
    pictures: Pictures,
    batch_size: int = 8,
    prefix: Prefix | None = None,
) -> tuple[float, ...]:
    """Log-likelihood per token of each answer, natural logarithm (Flamingo's and open_flamingo's close-ended scoring).

    What the prompts have in common, the question and its demonstrations, is read once.

    Args:
        model: Emu2ForConditionalGeneration, with or without adapters, in evaluation mode.
        prompts: one question, with each answer as its continuation.
        batch_size: answers scored at once.
        prefix: of these prompts, if read already.
    """
    shared = common(prompts, pictures.n_query)
    beginning = Prefix(model, shared, pictures, before=prefix if prefix and prefix.begins(shared) else None)
    scores: list[float] = []
    for start in range(0, len(prompts), batch_size):
        scores += _scores(model, processor, prompts[start : start + batch_size], beginning).tolist()
    return tuple(scores)


def _scores(model: nn.Module, processor: Any, prompts: Sequence[Prompt], beginning: Prefix) -> Tensor:
    """(prompts,) mean log-probabilities of the answers' tokens."""
    known, device = len(beginning), model_device(model)
    batch = {key: value.to(device) for key, value in _right_padded(prompts, processor, known).items()}
    ids, mask = batch["input_ids"], batch["attention_mask"]
    positions = torch.arange(known, known + ids.shape[1], device=device)
    logits = model(
        input_ids=ids,
        attention_mask=torch.cat([mask.new_ones(len(ids), known), mask], dim=1),
        position_ids=positions.expand(len(ids), -1),
        past_key_values=beginning.cache(len(ids)),
        use_cache=True,
    ).logits
    first = beginning.logits.to(logits).expand(len(ids), -1, -1)
    predictions = torch.cat([first, logits[:, :-1]], dim=1).float().log_softmax(dim=-1)
    found = predictions.gather(-1, ids.unsqueeze(-1)).squeeze(-1)
    answers = torch.tensor([prompt.answer for prompt in prompts], device=device)
    counted = mask.bool() & (positions >= answers.unsqueeze(-1))
    return (found * counted).sum(dim=-1) / counted.sum(dim=-1)


def _right_padded(prompts: Sequence[Prompt], processor: Any, known: int) -> dict[str, Tensor]:
    return processor.pad([prompt.ids[known:] for prompt in prompts], side="right")
