"""A plan's module for real: how much memory a step of it takes."""

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace

import torch

from emu2_lit import plan as planning
from emu2_lit.model import Emu2Config, Emu2Processor
from emu2_lit.modules import OBJECTIVES, TuningModule
from emu2_lit.plan import Layout, Memory, Workload
from emu2_lit.settings import LoraSettings


@dataclass(frozen=True)
class Case:
    """What is tuned, and how."""

    preset: str
    objective: str = "chat"
    lora: bool = True
    checkpointing: bool = False
    mixed: bool = False
    accumulates: bool = False
    frozen: tuple[str, ...] | None = None

    @property
    def dtype(self) -> torch.dtype:
        return torch.bfloat16 if self.mixed else torch.float32

    @property
    def autocast(self) -> torch.dtype | None:
        return torch.bfloat16 if self.mixed else None

    @property
    def config(self) -> Emu2Config:
        return Emu2Config.preset(self.preset).with_role_tokens()

    def module(self, source, processor) -> TuningModule:
        return OBJECTIVES[self.objective](
            source, processor, lora=LoraSettings() if self.lora else None, frozen=self.frozen,
            activation_checkpointing=self.checkpointing, dtype=self.dtype,
        )  # fmt: skip


def planned(case: Case, load: Workload) -> Memory:
    """What the kit predicts."""
    model = planning.meta_model(planning.shortened(case.config), case.dtype, None)
    module = case.module(model, SimpleNamespace(tokenizer=SimpleNamespace(chat=True), n_query=model.config.n_query))
    with torch.device("meta"):
        module.configure_model()
    layout = Layout(planning.measure(module.model, case.config), "auto", 1)
    phases = planning.trace(module, case.config, load, autocast=case.autocast, accumulates=case.accumulates)
    return planning.of_step(layout, planning.unfold(phases, planning.depths(case.config)), accumulates=case.accumulates)


def steps(case: Case, load: Workload) -> tuple[TuningModule, dict, Callable[[], None]]:
    """The real module, its batch, and an optimizer step in the order of Lightning's loop."""
    module = case.module(Emu2Config.preset(case.preset), Emu2Processor.for_config(case.config))
    module.configure_model()
    batch = load.batch(case.config)
    batch |= {name: torch.randn(shape) for name, shape in load.pictures(case.config).items()}
    optimizer = torch.optim.AdamW([parameter for parameter in module.parameters() if parameter.requires_grad])

    def forward() -> torch.Tensor:
        with torch.autocast("cpu", case.autocast, enabled=case.mixed):
            return sum(loss for loss, _ in module.losses(batch).values())

    def step() -> None:
        loss = forward()
        optimizer.zero_grad()
        loss.backward()
        if case.accumulates:
            loss = forward()
            loss.backward()
        optimizer.step()

    return module, batch, step


def measured(case: Case, load: Workload) -> int:
    """The most bytes that the allocator had given out in two steps, weights and batch included."""
    module, batch, step = steps(case, load)
    held = sum(tensor.nbytes for tensor in [*module.parameters(), *module.buffers(), *batch.values()])
    return held + allocated(lambda: (step(), step()))


def allocated(action: Callable[[], object]) -> int:
    """The most bytes that the CPU's allocator had given out at once within an action."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True, acc_events=True) as profiler:
        action()
    events = profiler.profiler.kineto_results.events()
    level = peak = 0
    for event in sorted((e for e in events if e.name() == "[memory]"), key=lambda e: e.start_ns()):
        level += event.nbytes()
        peak = max(peak, level)
    return peak
