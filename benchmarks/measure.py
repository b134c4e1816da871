"""Two ways of doing one thing, timed side by side in one process: alternating, medians, and their ratio."""

import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).parent / "results"


def compare(
    name: str, command: str, ways: dict[str, Callable[[], object]], repeats: int = 5, clock: str = "perf_counter",
    **figures: Any,
) -> dict:  # fmt: skip
    """Time each way `repeats` times in turn, after one untimed round; print a table and keep it under results/.

    Ratios are to the first way: how many times faster the others are.

    Args:
        clock: of the module `time`: perf_counter, or process_time, which other processes disturb less.
        figures: kept too.
    """
    now = getattr(time, clock)
    for way in ways.values():
        way()
    seconds: dict[str, list[float]] = {label: [] for label in ways}
    for _ in range(repeats):
        for label, way in ways.items():
            start = now()
            way()
            seconds[label].append(now() - start)
    medians = {label: statistics.median(times) for label, times in seconds.items()}
    first = next(iter(medians.values()))
    for label, median in medians.items():
        print(f"{label:32} {median:9.3f} s   {first / median:6.2f}x")
    return keep(
        name, command, repeats=repeats, clock=clock,
        seconds={label: round(median, 4) for label, median in medians.items()},
        times_faster={label: round(first / median, 2) for label, median in medians.items()},
        **figures,
    )  # fmt: skip


def keep(name: str, command: str, **figures: Any) -> dict:
    """Keep figures under results/, with what they were measured on."""
    result = dict(
        name=name, command=command, torch=torch.__version__, threads=torch.get_num_threads(),
        machine=f"{platform.machine()}, {platform.python_implementation()} {platform.python_version()}", **figures,
    )  # fmt: skip
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n")
    return result
