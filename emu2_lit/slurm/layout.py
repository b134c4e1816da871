"""How many machines, processes, GPUs and minutes a recipe asks of SLURM."""

import re
from dataclasses import dataclass, replace
from datetime import timedelta

from emu2_lit.errors import UserError
from emu2_lit.recipe.schema import Recipe
from emu2_lit.recipe.shares import data_shares

# SLURM looks at the clock every 30 seconds: its warning comes up to a minute earlier than asked for.
_CLOCK = 60
_WITH_DAYS = re.compile(r"(?P<days>\d+)-(?P<hours>\d+)(:(?P<minutes>\d+)(:(?P<seconds>\d+))?)?")
_WITHOUT = re.compile(r"((?P<hours>\d+):)?(?P<minutes>\d+):(?P<seconds>\d+)")


@dataclass(frozen=True)
class Layout:
    """What a job needs. `tasks`, `gpus` are per node, `cpus` per task, `seconds` the longest stretch (None: the
    partition's own limit)."""

    nodes: int
    tasks: int
    gpus: int
    cpus: int
    seconds: int | None


def layout(recipe: Recipe) -> Layout:
    """What the recipe asks for.

    Raises:
        UserError: it contradicts itself, or could not be saved before its time is over.
    """
    slurm, trainer = recipe.slurm, recipe.trainer
    devices, cpu = _count(trainer.devices), trainer.accelerator == "cpu"
    if slurm.gpus and cpu:
        raise UserError(f"slurm.gpus={slurm.gpus}, but trainer.accelerator=cpu uses none: change one of them")
    if slurm.gpus == 0 and trainer.accelerator in ("gpu", "cuda"):
        raise UserError(f"slurm.gpus=0, but trainer.accelerator={trainer.accelerator} needs some: change one of them")
    if slurm.gpus is None and devices is None and not cpu:
        raise UserError("slurm.gpus: say how many GPUs each machine is to have (0: none)")
    gpus = slurm.gpus if slurm.gpus is not None else 0 if cpu else devices
    seconds = parse_time(slurm.time)
    _check_lead(recipe, seconds)
    return Layout(
        nodes=slurm.nodes or trainer.num_nodes, tasks=gpus or devices or 1, gpus=gpus,
        cpus=slurm.cpus or recipe.data.workers + 1, seconds=seconds,
    )  # fmt: skip


def placed(recipe: Recipe) -> Recipe:
    """The recipe as the job runs it: its trainer has the processes that the job starts."""
    wanted = layout(recipe)
    accelerator = "cpu" if not wanted.gpus and recipe.trainer.accelerator == "auto" else recipe.trainer.accelerator
    trainer = replace(recipe.trainer, num_nodes=wanted.nodes, devices=wanted.tasks, accelerator=accelerator)
    ranks, data = wanted.nodes * wanted.tasks, recipe.data
    if not data.types and data.global_batch_size % (data.micro_batch_size * data_shares(trainer, ranks)):
        raise UserError(
            f"data.global_batch_size={data.global_batch_size} is not a multiple of data.micro_batch_size="
            f"{data.micro_batch_size} times {ranks} processes ({wanted.nodes} node(s) x {wanted.tasks}): change one"
        )
    return replace(recipe, trainer=trainer)


def parse_time(text: str | None) -> int | None:
    """Seconds of SLURM's D-HH:MM:SS, HH:MM:SS or MM:SS, or of a bare number of them: YAML reads an unquoted 4:00:00 as
    14400."""
    if text is None:
        return None
    if text.isdigit():
        return int(text)
    found = _WITH_DAYS.fullmatch(text.strip()) or _WITHOUT.fullmatch(text.strip())
    if found is None:
        raise UserError(f"slurm.time: {text!r} is no time; write 4:00:00 or 1-12:00:00")
    parts = {name: int(value or 0) for name, value in found.groupdict().items()}
    return int(timedelta(**parts).total_seconds())


def format_time(seconds: int) -> str:
    """SLURM's own notation, 1-12:00:00."""
    days, rest = divmod(int(seconds), 86400)
    clock = f"{rest // 3600:02d}:{rest // 60 % 60:02d}:{rest % 60:02d}"
    return f"{days}-{clock}" if days else clock


def _check_lead(recipe: Recipe, seconds: int | None) -> None:
    lead = recipe.slurm.signal_lead
    if seconds is not None and recipe.slurm.requeue and lead + _CLOCK > seconds:
        raise UserError(
            f"slurm.signal_lead={lead}: with slurm.time={format_time(seconds)} the run would be told to save as soon "
            f"as it starts; give it more time, or a lead of at most {max(seconds - _CLOCK, 1)} seconds"
        )


def _count(devices: int | str) -> int | None:
    """How many processes per node; None where only the machine can tell."""
    text = str(devices)
    if "," in text:
        return len([one for one in text.split(",") if one.strip()])
    return int(text) if text.isdigit() and int(text) else None
