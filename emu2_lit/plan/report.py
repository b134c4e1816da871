"""A plan in words."""

from collections.abc import Iterator

from emu2_lit.plan.cost import EFFICIENCY, RATES
from emu2_lit.plan.memory import activations
from emu2_lit.plan.plan import RESERVES, Plan

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def size(count: float) -> str:
    """Bytes in the unit that suits them."""
    unit = 0
    while abs(count) >= 1000 and unit < len(_UNITS) - 1:
        count, unit = count / 1024, unit + 1
    return f"{count:.{0 if unit == 0 else 1 if count >= 10 else 2}f} {_UNITS[unit]}"


def describe(plan: Plan) -> str:
    """The whole plan, for a terminal."""
    return "\n".join([*_head(plan), "", *_memory(plan), "", *_verdict(plan), "", *_cost(plan)])


def _head(plan: Plan) -> Iterator[str]:
    layout, load = plan.layout, plan.workload
    row = "packed row" if load.packed else "sample"
    groups = f", tensor parallel {layout.tensor_parallel}" if layout.tensor_parallel > 1 else ""
    yield f"{plan.name}: {plan.network}, {layout.strategy}{groups} on {layout.devices} device(s)"
    yield (
        f"One micro-batch: {load.samples} {row}(s) of {load.length} tokens with {load.images} picture(s) each; "
        "all text is taken as learned"
    )


def _memory(plan: Plan) -> Iterator[str]:
    memory = plan.memory
    rows = [(f"weights: {kind}", count) for kind, count in memory.weights.items()]
    rows += [("gradients", memory.gradients), ("optimizer state", memory.optimizer)]
    rows += [(f"activations: {kind}", count) for kind, count in activations(plan.phases).items()]
    rows.append(("gathered from other devices", plan.layout.gathered(backward=True)))
    width = max(len(label) for label, _ in rows)
    yield "On each device"
    for label, count in rows:
        if count > 0:
            yield f"  {label:{width}}  {size(count):>10}"
    peak = memory.peak
    held = ", ".join(f"{kind} {size(count)}" for kind, count in peak.held.items() if count > 0)
    yield f"  {'peak':{width}}  {size(peak.total):>10}   {peak.name}"
    yield f"    {held}"


def _verdict(plan: Plan) -> Iterator[str]:
    reserve = size(RESERVES[plan.gpu])
    if plan.fits is None:
        yield f"Takes a device of {size(plan.needed)} ({reserve} of it in reserve)"
    elif plan.fits:
        yield f"Fits: {size(plan.needed)} ({reserve} of it in reserve) of {size(plan.available)}"
    else:
        needed, there = size(plan.needed), size(plan.available)
        yield f"Does not fit: it takes {needed} ({reserve} of it in reserve), {there} are there"
        yield from advice(plan)


def advice(plan: Plan) -> Iterator[str]:
    """The changes that help, one line each."""
    for one in plan.advice:
        enough = "fits" if one.peak <= plan.room else "not enough alone"
        yield f"  {one.change}: peak {size(one.peak)}, {size(plan.peak - one.peak)} less ({enough})"


def _cost(plan: Plan) -> Iterator[str]:
    load, seconds = plan.workload, plan.step_seconds
    rows, most = ("packed rows", "") if load.packed else ("samples", " at most")
    yield f"One step: {plan.samples:,.0f} {rows}, {plan.samples * load.length:,.0f} tokens{most}"
    work = f"{plan.work.total / 1e12:,.4g} TFLOP in a micro-batch"
    if plan.work.recomputed:
        work += f", {plan.work.recomputed / plan.work.total:.0%} of it recomputed"
    yield (
        f"Time, an estimate: {_time(seconds)} a step ({work}; {plan.device}, {RATES[plan.device]} TFLOP/s stated, "
        f"{EFFICIENCY:.0%} of it reached)" + (f"; {_time(seconds * plan.steps)} in all" if plan.steps else "")
    )
    yield (
        f"Disk: {size(plan.checkpoint_bytes)} a checkpoint, {size(plan.result_bytes)} for the result, "
        f"{size(plan.picture_bytes)} for each picture of a feature cache"
    )


def _time(seconds: float) -> str:
    for unit, length in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:,.1f} {unit}"
    return f"{seconds:.2g} s"
