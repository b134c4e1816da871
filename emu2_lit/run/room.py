"""Whether the device that a run will use has room for it, before the run."""

import ctypes
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from lightning import Trainer
from lightning.pytorch.accelerators import CPUAccelerator, CUDAAccelerator
from lightning.pytorch.utilities.rank_zero import rank_zero_info

from emu2_lit.errors import UserError
from emu2_lit.plan import RESERVES, STRATEGIES, Plan, advice, size
from emu2_lit.recipe.schema import Recipe
from emu2_lit.run.plan import Circumstances, plan

_WORTH_IT = 2**29  # planned bytes from which freed memory is given back, which costs a little time
_MMAP_THRESHOLD, _LARGE = -3, 2**20  # M_MMAP_THRESHOLD of malloc.h; bytes from which a tensor is mapped by itself
_NAMES = {False: ("memory.max", "memory.current"), True: ("memory.limit_in_bytes", "memory.usage_in_bytes")}


def check_memory(recipe: Recipe, trainer: Trainer) -> Plan | None:
    """Plan the run on the devices that the trainer has found; None where nothing can be said.

    Raises:
        UserError: it cannot fit. The message says what would help.
    """
    available = device_memory(trainer)
    if available is None or recipe.trainer.strategy not in STRATEGIES:
        return None
    gpu = isinstance(trainer.accelerator, CUDAAccelerator)
    there = available if gpu else available + RESERVES[False]  # this process has started already
    made = plan(recipe, Circumstances(devices=trainer.world_size, memory=there, gpu=gpu))
    if not gpu and made.peak > _WORTH_IT:
        give_back_freed_memory()
    if made.fits:
        rank_zero_info(f"Planned peak memory: {size(made.peak)} of {size(available)} ({made.memory.peak.name})")
        return made
    load = made.workload
    raise UserError(
        f"This run does not fit: a device will hold {size(made.peak)} ({made.memory.peak.name}), and has "
        f"{size(available)}. Planned with {load.samples} sample(s) of {load.length} tokens in a micro-batch and "
        f"{load.images} picture(s) in each; `emu2-lit plan` says more. What helps most:\n"
        + "\n".join(advice(made))
        + "\nIf your samples are shorter than data.max_length, lower it; trainer.check_memory=false starts regardless"
    )


def device_memory(trainer: Trainer) -> int | None:
    """Bytes that one process may fill: of its GPU all, of the machine's memory its share of what is free."""
    if isinstance(trainer.accelerator, CUDAAccelerator):
        return torch.cuda.mem_get_info(trainer.strategy.root_device)[1]
    if isinstance(trainer.accelerator, CPUAccelerator):
        free = free_memory()
        return None if free is None else free // max(trainer.num_devices, 1)
    return None


def give_back_freed_memory() -> None:
    """Let large freed tensors go back to the system at once. glibc by itself keeps them in a heap that falls into
    pieces: a process of the small preset held up to four times what its tensors took."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform.startswith("linux") else None
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, _LARGE)


def free_memory(proc: Path = Path("/proc"), groups: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Bytes that are free on this machine and under the limits of containers and jobs; None where nothing says it."""
    found = [_machine(proc / "meminfo"), *_limits(proc / "self" / "cgroup", groups)]
    return min((size for size in found if size is not None), default=None)


def _machine(meminfo: Path) -> int | None:
    try:
        lines = meminfo.read_text().splitlines()
    except OSError:  # not Linux
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)


def _limits(own: Path, groups: Path) -> Iterator[int | None]:
    """What is left in each control group that this process is in, and in those around it, of either version."""
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers or "memory" in controllers.split(","):
            root = groups / "memory" if controllers else groups
            folder = root / path.strip("/")
            for group in (folder, *folder.parents):
                if group.is_relative_to(root):
                    yield _left(group, _NAMES[bool(controllers)])


def _left(group: Path, names: tuple[str, str]) -> int | None:
    try:
        limit, used = ((group / name).read_text().strip() for name in names)
        kept = (group / "memory.stat").read_text().split()
    except OSError:  # no limit here
        return None
    if limit == "max":
        return None
    files = dict(zip(kept[::2], map(int, kept[1::2]), strict=True)).get("inactive_file", 0)  # given back when needed
    return max(int(limit) - int(used) + files, 0)
