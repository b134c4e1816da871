"""Small exchanges between ranks; without a process group each is what one process alone has."""

from typing import Any

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


def gathered(values: list[Any]) -> list[Any]:
    """The lists of all ranks, joined in rank order."""
    if not _several():
        return values
    everyone: list[list[Any]] = [[] for _ in range(dist.get_world_size())]
    dist.all_gather_object(everyone, values)
    return [value for one in everyone for value in one]


def _several() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
