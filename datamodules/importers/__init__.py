"""One file per data format. A format is a module here with `detect(record) -> bool` and
`to_sample(record, context) -> Sample`; its file name is its name in recipes (`format: llava`).
Its first docstring line is its description. A new format is a new file, nothing else."""

import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any

from datamodules.context import Context
from emu2_lit.errors import UserError
from emu2_lit.samples.sample import BadSample, Sample


@dataclass(frozen=True)
class Importer:
    name: str
    detect: Callable[[dict[str, Any]], bool]
    to_sample: Callable[[dict[str, Any], Context], Sample]
    description: str


@cache
def importers() -> dict[str, Importer]:
    """All formats by name."""
    found = {}
    for info in pkgutil.iter_modules(__path__):
        module = import_module(f"{__name__}.{info.name}")
        first_line = (module.__doc__ or "").strip().split("\n")[0]
        found[info.name] = Importer(info.name, module.detect, module.to_sample, first_line)
    return found


def check_format(name: str) -> None:
    """Raise UserError unless `name` is "auto" or a format."""
    if name != "auto" and name not in importers():
        raise UserError(f"unknown data format {name!r}; known: auto, {', '.join(sorted(importers()))}")


def import_record(record: Any, context: Context, format: str = "auto") -> Sample:
    """Turn one record of a file into a Sample. Raises BadSample, with the keys found, if no format fits."""
    if not isinstance(record, dict):
        raise BadSample(f"the record is a {type(record).__name__}, not an object")
    if format != "auto":
        return importers()[format].to_sample(record, context)
    for importer in importers().values():
        if importer.detect(record):
            return importer.to_sample(record, context)
    raise BadSample(f"no known format has the keys {', '.join(map(str, record)) or '(none)'}")
