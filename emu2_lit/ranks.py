"""Small exchanges between ranks; without a process group each is what one process alone has."""

from typing import Any, NamedTuple

import torch
import torch.distributed as dist


def all_reduced(counts: list[int]) -> list[int]:
    """Sums over all ranks. Every rank must call it with as many counts."""
    if not _several():
        return counts
    device = torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else "cpu"
    tensor = torch.tensor(counts, dtype=torch.int64, device=device)
    dist.all_reduce(tensor)
    return tensor.tolist()


def place() -> tuple[int, int]:
    """This process's rank, and how many there are."""
    return (dist.get_rank(), dist.get_world_size()) if _several() else (0, 1)


class DataPlace(NamedTuple):
    """Which share of every batch a rank works on.

    Attributes:
        rank, size: the share, and how many there are.
        leads: whether this rank speaks for the share; with tensor parallelism several ranks work on the same one.
    """

    rank: int
    size: int
    leads: bool


def data_place(trainer: Any) -> DataPlace:
    """This process's share, once Lightning's trainer has set up its strategy."""
    told = getattr(trainer.strategy, "distributed_sampler_kwargs", None) or {"rank": 0, "num_replicas": 1}
    rank, size = told["rank"], told["num_replicas"]
    return DataPlace(rank, size, trainer.global_rank % (trainer.world_size // size) == 0)


def gathered(values: list[Any]) -> list[Any]:
    """The lists of all ranks, joined in rank order."""
    if not _several():
        return values
    everyone: list[list[Any]] = [[] for _ in range(dist.get_world_size())]
    dist.all_gather_object(everyone, values)
    return [value for one in everyone for value in one]


def _several() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
