"""One file per benchmark, read from its official files. A module here says in `BENCHMARKS` under which names it opens
what: `name -> open(path, split)`. A new benchmark is a new file, nothing else."""

import pkgutil
from collections.abc import Callable
from difflib import get_close_matches
from functools import cache
from importlib import import_module
from pathlib import Path

from emu2_lit.errors import UserError
from emu2_lit.evaluation.benchmark import Benchmark
from emu2_lit.evaluation.drawing_benchmark import DrawingBenchmark

AnyBenchmark = Benchmark | DrawingBenchmark
Opener = Callable[[Path, str | None], AnyBenchmark]


@cache
def benchmarks() -> dict[str, Opener]:
    """How to open every benchmark, by name."""
    modules = (import_module(f"{__name__}.{info.name}") for info in pkgutil.iter_modules(__path__))
    return {name: opener for module in modules for name, opener in getattr(module, "BENCHMARKS", {}).items()}


def open_benchmark(name: str, path: str | Path, split: str | None = None, limit: int | None = None) -> AnyBenchmark:
    """A benchmark from its files.

    Args:
        path: the folder of its official files, or its one file.
        split: null: the one that the paper reports.
        limit: only so many questions, or prompts to draw, spread evenly.
    Raises:
        UserError: an unknown name, files that are missing or not in their form; says which.
    """
    if name not in benchmarks():
        near = get_close_matches(name, benchmarks(), n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise UserError(f"no benchmark {name!r}{hint} There are {', '.join(sorted(benchmarks()))}")
    path = Path(path).expanduser()
    if not path.exists():
        raise UserError(f"benchmark {name}: no such file or folder: {path}")
    opened = benchmarks()[name](path, split)
    asked = "tasks" if isinstance(opened, DrawingBenchmark) else "queries"
    items = getattr(opened, asked)
    if limit is not None and limit < len(items):
        setattr(opened, asked, [items[place * len(items) // limit] for place in range(limit)])
    return opened
