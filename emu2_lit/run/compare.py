"""Did two runs see the same samples in the same order?"""

from itertools import zip_longest
from pathlib import Path

from callbacks.batch_digests import Consumed, consumed_samples

Seen = tuple[int, Consumed] | None  # step and sample


def compare_runs(left: str | Path, right: str | Path) -> tuple[bool, str]:
    """Whether both run folders tell of the same samples, with the same content, in the same global order, however many
    ranks and micro-batches they were dealt to; and a text that says so, or names the first difference.

    Raises UserError where a run has kept no record of its batches.
    """
    runs = [Path(left), Path(right)]
    number = steps = 0
    pairs = zip_longest(*(consumed_samples(run / "batches") for run in runs))
    for number, (one, other) in enumerate(pairs, 1):
        if one is None or other is None or one[1] != other[1]:
            return False, _difference(number, runs, (one, other))
        steps = one[0]
    return True, f"The same {number} samples in the same order, up to step {steps}"


def _difference(number: int, runs: list[Path], seen: tuple[Seen, Seen]) -> str:
    ended = [run for run, one in zip(runs, seen, strict=True) if one is None]
    lines = [f"The first {number - 1} samples are the same; then" + (f" {ended[0]} ends:" if ended else ":")]
    for run, one in zip(runs, seen, strict=True):
        if one is not None:
            lines.append(f"  {run}, step {one[0]}: {_describe(one[1])}")
    return "\n".join(lines)


def _describe(sample: Consumed) -> str:
    kind = f" of type {sample.type}" if sample.type else ""
    return (
        f"{sample.id or 'a bad sample'} of {sample.source}, epoch {sample.epoch}, at position {sample.position}{kind} "
        f"(content {sample.digest})"
    )
