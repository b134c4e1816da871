"""Data types: kinds of data that have a batch size of their own, as in the paper's three tables of batch sizes."""

from collections.abc import Sequence

from datamodules.order import integer_shares, schedule
from datamodules.split import TypedSplit
from emu2_lit.errors import UserError
from emu2_lit.settings import SourceSettings, TypeSettings, type_problems


def check_types(types: Sequence[TypeSettings], sources: Sequence[SourceSettings]) -> None:
    """Raises UserError unless every source has one of the types, and every type a source."""
    for problem in type_problems(types, sources):
        raise UserError(problem)


def typed_split(
    types: Sequence[TypeSettings], mixing: str, micro_batch_size: int, world_size: int, rank: int = 0
) -> TypedSplit:
    """How steps are dealt out. Raises UserError when a batch cannot be dealt to the ranks."""
    draws = tuple(schedule(integer_shares([kind.weight for kind in types]))) if mixing == "alternate" else None
    names, sizes = tuple(kind.name for kind in types), tuple(kind.batch_size for kind in types)
    split = TypedSplit(names, sizes, draws, micro_batch_size, world_size, rank)
    split.passes  # noqa: B018 - raises where a batch does not divide
    return split
