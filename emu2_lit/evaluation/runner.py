"""A model's answers to a benchmark, few-shot or not."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from emu2_lit.errors import UserError
from emu2_lit.evaluation import prompts as wording
from emu2_lit.evaluation.benchmark import Benchmark, Prediction
from emu2_lit.evaluation.demonstrations import Features, How, select
from emu2_lit.evaluation.likelihood import choice_scores
from emu2_lit.evaluation.pictures import Pictures
from emu2_lit.evaluation.prefix import Prefix, Prompt, common, encode, left_padded, model_device
from emu2_lit.evaluation.question import Question
from emu2_lit.ranks import gathered, place

_WORTH_SHARING = 32  # tokens


def predict(
    model: nn.Module,
    processor: Any,
    benchmark: Benchmark,
    shots: int,
    *,
    how: How = "random",
    dialect: str = "emu2",
    zero_shot: wording.ZeroShot = "true",
    seed: int = 0,
    batch_size: int = 8,
    chat: bool = False,
    n_query: int | None = None,
    num_beams: int = 5,
    length_penalty: float = -1.0,
    queries: Sequence[Question] | None = None,
    features: Features | None = None,
    pictures: Pictures | None = None,
    share_prefix: bool = True,
    done: Mapping[str, Prediction] | None = None,
    on_batch: Callable[[Sequence[Prediction]], None] | None = None,
) -> list[Prediction] | None:
    """Answer every query; None where the prompts of so many shots do not fit the model's positions.

    The defaults are the settings of the paper: 5 beams, length penalty -1, at least one token
    (https://github.com/baaivision/Emu/issues/77). Under several ranks the queries are shared, and all ranks get all
    predictions; a sharded model, whose ranks must step together, answers all of them on every rank.

    Args:
        model: Emu2ForConditionalGeneration, with or without adapters; it is put into evaluation mode.
        processor: its Emu2Processor.
        how, seed, features: see `demonstrations.select`. Features are made of the model's own where they are needed.
        dialect, zero_shot, chat: see `prompts`; `zero_shot` speaks of 0 shots, `chat` wraps into Emu2-Chat's template.
        n_query: visual tokens per picture; default at most 64, see `Pictures`.
        queries: those to answer; default all of the benchmark.
        pictures: features to share between calls with the same model.
        share_prefix: read demonstrations that all queries share once.
        done: predictions of an earlier call that was killed, by id; only the rest is answered.
        on_batch: called with each batch of this rank.
    Returns:
        One prediction per query, in their order.
    Raises:
        UserError: ids that occur twice, too few demonstrations, choices that are missing, or an unreadable picture.
    """
    model.eval()
    queries = list(benchmark.queries if queries is None else queries)
    _check(queries, benchmark)
    pictures = pictures or Pictures(model, processor, n_query)
    share = not is_sharded(model)
    if how == "rices" and shots and features is None:
        features = Features(benchmark.support, pictures.features, share)
    task = _Task(processor, benchmark, shots, how, dialect, zero_shot, seed, chat, pictures.n_query, features)
    results = {one.id: one for one in gathered(list((done or {}).values()))}
    pending = [question for question in queries if question.id not in results]
    rank, world = place() if share else (0, 1)
    rows, shared = _plan(task, pending[rank::world])
    fits = all(row.length <= model.lm.config.max_position_embeddings for row in rows)
    if not all(gathered([fits])):
        return None
    answer = _Answering(model, task, pictures, batch_size, num_beams, length_penalty)
    if share_prefix and len(rows) > 1 and len(shared.ids) >= _WORTH_SHARING:
        answer.prefix = Prefix(model, shared, pictures)
    mine: list[Prediction] = []
    for batch in _batches(rows, batch_size):
        mine += (new := answer(batch))
        if on_batch:
            on_batch(new)
    results |= {one.id: one for one in (gathered(mine) if share else mine)}
    return [results[question.id] for question in queries]


def is_sharded(model: nn.Module) -> bool:
    """Whether no rank holds whole weights (FSDP2, ZeRO-3)."""
    return any(isinstance(p, DTensor) or hasattr(p, "ds_id") for p in model.parameters())


@dataclass(frozen=True)
class _Row:
    question: Question
    demonstrations: tuple[Question, ...]
    length: int  # tokens of the prompt and of the longest answer


@dataclass(frozen=True)
class _Task:
    """What is asked, and how."""

    processor: Any
    benchmark: Benchmark
    shots: int
    how: How
    dialect: str
    zero_shot: wording.ZeroShot
    seed: int
    chat: bool
    n_query: int
    features: Features | None

    @property
    def text_only(self) -> bool:
        return self.shots == 0 and self.zero_shot == "text"

    def demonstrations(self, question: Question) -> tuple[Question, ...]:
        shots, how = self.shots, self.how
        if self.text_only:
            shots, how = wording.TEXT_DEMONSTRATIONS, "random"
        return select(question, self.benchmark.support, shots, how, self.seed, self.features)

    def prompt(self, question: Question, demonstrations: Sequence[Question], answer: str = "") -> Prompt:
        word = wording.chat if self.chat else wording.build
        parts = word(question, demonstrations, self.dialect, "text" if self.text_only else "true")
        answer = answer and wording.continuation(question, answer, self.dialect, self.chat)
        return encode(parts, self.processor, self.n_query, answer, self.benchmark.grounding)

    def longest(self, question: Question) -> str:
        """The answer that needs most room."""
        return max(question.choices, key=len) if self.benchmark.answer_by == "likelihood" else ""


def _check(queries: Sequence[Question], benchmark: Benchmark) -> None:
    seen: set[str] = set()
    for question in queries:
        if question.id in seen:
            raise UserError(f"{benchmark.name}: two queries have the id {question.id}")
        seen.add(question.id)
        if benchmark.answer_by == "likelihood" and not question.choices:
            raise UserError(f"{benchmark.name}: {question.id} has no choices to score")


def _plan(task: _Task, questions: Sequence[Question]) -> tuple[list[_Row], Prompt | None]:
    """The rows, longest first so that memory that does not suffice shows at once, and what their prompts share."""
    room = 0 if task.benchmark.answer_by == "likelihood" else task.benchmark.max_new_tokens
    rows: list[_Row] = []

    def prompts() -> Iterator[Prompt]:
        for question in questions:
            shown = task.demonstrations(question)
            prompt = task.prompt(question, shown, task.longest(question))
            rows.append(_Row(question, shown, len(prompt.ids) + room))
            yield prompt

    shared = common(prompts(), task.n_query)
    return sorted(rows, key=lambda row: row.length, reverse=True), shared


def _batches(rows: Sequence[_Row], size: int) -> Iterator[Sequence[_Row]]:
    return (rows[start : start + size] for start in range(0, len(rows), size))


class _Answering:
    """Rows to predictions."""

    def __init__(self, model, task: _Task, pictures: Pictures, batch_size: int, num_beams: int, length_penalty: float):
        self.model, self.task, self.pictures, self.batch_size = model, task, pictures, batch_size
        self.prefix: Prefix | None = None
        self.decoding = dict(
            do_sample=False, num_beams=num_beams, min_new_tokens=1, max_new_tokens=task.benchmark.max_new_tokens
        )
        if num_beams > 1:
            self.decoding["length_penalty"] = length_penalty

    def __call__(self, rows: Sequence[_Row]) -> list[Prediction]:
        by_likelihood = self.task.benchmark.answer_by == "likelihood"
        return self._chosen(rows) if by_likelihood else self._generated(rows)

    @torch.no_grad()
    def _generated(self, rows: Sequence[_Row]) -> list[Prediction]:
        processor, benchmark = self.task.processor, self.task.benchmark
        prompts = [self.task.prompt(row.question, row.demonstrations) for row in rows]
        inputs = {k: v.to(model_device(self.model)) for k, v in left_padded(prompts, processor, self.prefix).items()}
        if images := [image for prompt in prompts for image in prompt.pictures]:
            inputs["visual_embeds"] = self.pictures.embed(images)
        if self.prefix:
            inputs["past_key_values"] = self.prefix.cache(len(rows) * self.decoding["num_beams"])
        ids = self.model.generate(**inputs, **self.decoding)
        texts = processor.batch_decode(ids, skip_special_tokens=not benchmark.grounding)  # boxes are special tokens
        return [
            Prediction(id=row.question.id, text=benchmark.clean(text), raw=text, shots=self.task.shots)
            for row, text in zip(rows, texts, strict=True)
        ]

    def _chosen(self, rows: Sequence[_Row]) -> list[Prediction]:
        prompt = self.task.prompt
        prompts = [[prompt(row.question, row.demonstrations, one) for one in row.question.choices] for row in rows]
        scored = choice_scores(self.model, self.task.processor, prompts, self.pictures, self.batch_size, self.prefix)
        predictions = []
        for row, scores in zip(rows, scored, strict=True):
            best = row.question.choices[scores.index(max(scores))]
            predictions.append(Prediction(row.question.id, best, raw=best, scores=scores, shots=self.task.shots))
        return predictions
