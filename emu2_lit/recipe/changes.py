"""What has changed between the recipe of a checkpoint and that of the run that goes on from it."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from typing import Any

from emu2_lit.recipe.check import keys_of_schema
from emu2_lit.recipe.overrides import covers
from emu2_lit.recipe.schema import Recipe

# What may change without a word: how far, how fast and where it runs, what is watched and written. Everything else
# would give another result than either recipe alone, and nobody would see why.
FREE = {
    "data.folder", "data.prepare", "data.micro_batch_size", "data.workers", "data.bad_budget",
    "data.validation", "data.validation_limit", "data.sources.path", "data.sources.root",  # these by fingerprint
    "trainer.max_steps", "trainer.max_epochs", "trainer.accelerator", "trainer.devices", "trainer.num_nodes",
    "trainer.strategy", "trainer.tensor_parallel", "trainer.val_check_interval", "trainer.limit_val_batches",
    "trainer.log_every_n_steps", "trainer.profiler", "trainer.fast_dev_run", "trainer.enable_progress_bar",
    "trainer.compile", "optimizer.fused", "tuning.activation_checkpointing", "tuning.gradient_norm_interval",
    "callbacks", "evaluation", "run.name", "run.dir", "run.logger", "resume", "slurm",
}  # fmt: skip
ABSENT = "not there"


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Dotted keys whose values differ, with both. A key that the older recipe did not know has its default there."""
    defaults = dict(_flat(asdict(Recipe())))
    old, new = defaults | dict(_flat(before)), defaults | dict(_flat(now))
    values = {key: (old.get(key, ABSENT), new.get(key, ABSENT)) for key in sorted(old | new)}
    return {key: pair for key, pair in values.items() if pair[0] != pair[1]}


def needs_consent(key: str) -> bool:
    """Whether a change of this key would silently give another result."""
    return not covers(FREE, ".".join(part for part in key.split(".") if not part.isdigit()))


def unknown_keys(allow: Iterable[str]) -> list[str]:
    """Those that are no key and no section of a recipe."""
    known = set(keys_of_schema())
    return [key for key in allow if re.sub(r"\.\d+(?=\.|$)", ".0", key) not in known | {f"{one}.0" for one in known}]


def _flat(values: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and values; a list is one value unless it holds sections."""
    if isinstance(values, dict) and values:
        items: Iterable = values.items()
    elif isinstance(values, list) and any(isinstance(item, dict) for item in values):
        items = enumerate(values)
    else:
        yield key, values
        return
    for name, item in items:
        yield from _flat(item, f"{key}.{name}" if key else str(name))
