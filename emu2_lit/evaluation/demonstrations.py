"""Which demonstrations a query is shown."""

import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.nn.functional import normalize

from emu2_lit.errors import UserError
from emu2_lit.evaluation.pictures import same_pictures
from emu2_lit.evaluation.question import Question
from emu2_lit.ranks import gathered, place
from emu2_lit.samples.seeding import hash_seed

How = Literal["none", "random", "fixed", "rices"]
_AT_ONCE = 64  # questions whose pictures are encoded together


class Features:
    """How alike the pictures of questions are: cosine similarity of an image encoder's features.

    That is the measure of RICES (Flamingo, Alayrac et al. 2022, appendix A.2). The paper does not say which encoder
    Emu2 used; any will do, `Pictures.features` is the model's own.

    Args:
        support: where demonstrations are drawn; under several ranks each encodes its part, so each must call this.
        encoder: image values -> (images, d). A question's feature is the mean over its pictures.
        share: false where the ranks cannot encode apart from each other (sharded models).
    """

    def __init__(self, support: Sequence[Question], encoder: Callable[[Sequence[Any]], Tensor], share: bool = True):
        self.encoder = encoder
        rank, world = place() if share else (0, 1)
        mine = range(rank, len(support), world)
        rows = list(zip(mine, self._rows([support[index] for index in mine]), strict=True))
        by_index = dict(gathered(rows) if world > 1 else rows)
        self.table = _stack([by_index[index] for index in range(len(support))])

    def similarity(self, question: Question) -> Tensor:
        """(support,) cosine similarities, -1..1; 0 where there are no pictures."""
        (row,) = self._rows([question])
        return torch.zeros(len(self.table)) if row is None else self.table @ row

    def _rows(self, questions: Sequence[Question]) -> list[Tensor | None]:
        rows: list[Tensor | None] = []
        for start in range(0, len(questions), _AT_ONCE):
            some = questions[start : start + _AT_ONCE]
            images = [image for question in some for image in question.images]
            vectors = normalize(self.encoder(images).float().cpu(), dim=-1) if images else torch.zeros(0, 1)
            pieces = vectors.split([len(question.images) for question in some])
            rows += [normalize(piece.mean(dim=0), dim=0) if len(piece) else None for piece in pieces]
        return rows


def _stack(rows: list[Tensor | None]) -> Tensor:
    width = next((len(row) for row in rows if row is not None), 1)
    return torch.stack([torch.zeros(width) if row is None else row for row in rows]) if rows else torch.zeros(0, 1)


def select(
    question: Question,
    support: Sequence[Question],
    shots: int,
    how: How = "random",
    seed: int = 0,
    features: Features | None = None,
) -> tuple[Question, ...]:
    """The demonstrations of a query in the order of the prompt.

    The query itself (same id, or same pictures) is never among them. With a `label`, `shots` counts per label (N-way
    tasks); with a `group`, they come from that group; demonstrations that the benchmark fixed are taken as they are,
    the first `shots` (of each label).

    Args:
        how: `random`: drawn by seed and query id, whatever the number of ranks; more shots contain fewer. `fixed`: the
            same for all queries, by the seed. `rices`: the most similar pictures, most similar last. `none`: none.
        features: of `support`; needed for `rices`.
    Raises:
        UserError: not enough of them.
    """
    if how not in get_args(How):
        raise UserError(f"demonstrations {how!r}: one of {', '.join(get_args(How))}")
    if shots == 0 or how == "none":
        return ()
    if question.demonstrations:
        return tuple(_take(question, iter(question.demonstrations), question.demonstrations, shots))
    pool = [index for index, one in enumerate(support) if one.group == question.group] if question.group else None
    candidates = range(len(support)) if pool is None else pool
    ranked = _ranked(question, candidates, how, seed, features)
    eligible = (support[index] for index in ranked if not _is(question, support[index]))
    chosen = _take(question, eligible, [support[index] for index in candidates] if question.label else (), shots)
    return tuple(reversed(chosen) if how == "rices" else chosen)


def _ranked(question: Question, candidates: Sequence[int], how: How, seed: int, features: Features | None):
    """Places in the support, the first choice first."""
    if how == "rices":
        if features is None:
            raise UserError("demonstrations by similarity (rices) need features of the support")
        places = torch.as_tensor(candidates)
        return places[features.similarity(question)[places].argsort(descending=True, stable=True)].tolist()
    name = question.group if how == "fixed" else question.id
    return _shuffled(candidates, random.Random(hash_seed(seed, "demonstrations", how, name)))


def _shuffled(values: Sequence[int], generator: random.Random) -> Iterator[int]:
    """Fisher and Yates's shuffle, only as far as it is needed: supports are large, and shots few."""
    moved: dict[int, int] = {}
    for last in range(len(values) - 1, -1, -1):
        drawn = generator.randrange(last + 1)
        yield values[moved.get(drawn, drawn)]
        moved[drawn] = moved.get(last, last)


def _is(question: Question, other: Question) -> bool:
    if question.id == other.id:
        return True
    if not question.images and not other.images:
        return question.text == other.text
    return same_pictures(question.images, other.images)


def _take(question: Question, eligible: Iterator[Question], pool: Sequence[Question], shots: int) -> list[Question]:
    """The first `shots`, of each label where the query has one."""
    wanted = Counter({one.label: shots for one in pool}) if question.label else Counter({"": shots})
    chosen: list[Question] = []
    for one in eligible:
        label = one.label if question.label else ""
        if wanted[label] > 0:
            wanted[label] -= 1
            chosen.append(one)
        if not any(wanted.values()):
            return chosen
    raise UserError(
        f"{question.id}: {shots} shots" + (" per label" if question.label else "") + ", but only "
        f"{len(chosen)} demonstrations can be had" + (f" in group {question.group}" if question.group else "")
        + ": lower the number of shots, or give more support"
    )  # fmt: skip
