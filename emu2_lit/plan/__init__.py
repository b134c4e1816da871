"""What a run will take, before it runs: memory by device, time, disk.

The step itself is taken once on tensors without values (recorder.py, tracing.py), with no more than four blocks of
each kind (network.py), and unfolded to the whole network; strategies are arithmetic on top of it (strategy.py,
memory.py).
"""

from emu2_lit.plan.cost import RATES, SampleWork, Work, gpu_rate, sample_work, work
from emu2_lit.plan.memory import Memory, of_step
from emu2_lit.plan.network import depths, measure, meta_model, shortened
from emu2_lit.plan.plan import GIB, RESERVES, Advice, Plan
from emu2_lit.plan.recorder import Phase
from emu2_lit.plan.report import advice, describe, size
from emu2_lit.plan.strategy import MOMENTS, STRATEGIES, Layout
from emu2_lit.plan.tracing import trace, unfold
from emu2_lit.plan.workload import Workload

__all__ = [
    "GIB", "MOMENTS", "RATES", "RESERVES", "STRATEGIES", "Advice", "Layout", "Memory", "Phase", "Plan", "SampleWork",
    "Work", "Workload", "advice", "depths", "describe", "gpu_rate", "measure", "meta_model", "of_step", "sample_work",
    "shortened", "size", "trace", "unfold", "work",
]  # fmt: skip
