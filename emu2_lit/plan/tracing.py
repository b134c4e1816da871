"""A training step of a recipe's module, divided into phases of known memory and work."""

from dataclasses import replace
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from emu2_lit.model import Emu2Config
from emu2_lit.plan.network import LM, TOWER
from emu2_lit.plan.recorder import Phase, StepRecorder
from emu2_lit.plan.workload import Workload

_BACKWARD = "backward of "


class Objective(Protocol):
    """What is traced: a LightningModule of the kit, its model on the meta device."""

    model: nn.Module

    def losses(self, batch: dict[str, Any]) -> dict[str, tuple[Tensor, Tensor]]: ...

    def loss_weight(self, kind: str) -> float: ...


def trace(
    module: Objective, config: Emu2Config, workload: Workload, *, autocast: torch.dtype | None = None,
    accumulates: bool = False, gpu: bool = False,
) -> list[Phase]:  # fmt: skip
    """Forward and backward of one micro-batch.

    Args:
        module: its model gets fake parameters by this and is of no use afterwards.
        config: of its model.
        autocast: the type of mixed precision.
        accumulates: gradients of an earlier micro-batch are there and added to.
        gpu: dropout as on accelerators.
    """
    batch = workload.batch(config)
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    with fake:
        model = module.model.to_empty(device="cpu")
        if accumulates:
            for parameter in model.parameters():
                parameter.grad = torch.empty_like(parameter) if parameter.requires_grad else None
        tensors = [*model.parameters(), *model.buffers()]
    recorder = StepRecorder(fake, tensors)
    _watch(model, recorder)
    if gpu:
        _keep_dropout_masks(model)
    with fake, recorder:
        recorder.begin("inputs")
        for tensor in batch.values():
            recorder.count(tensor)
        batch |= {name: torch.empty(shape) for name, shape in workload.pictures(config).items()}
        with torch.autocast("cpu", autocast, enabled=autocast is not None):
            losses = module.losses(batch)
            loss = sum(module.loss_weight(kind) * loss for kind, (loss, _) in losses.items())
        recorder.begin("backward of the loss")
        loss.backward()
        recorder.begin("")
    return recorder.phases


def _keep_dropout_masks(model: nn.Module) -> None:
    """Let dropout keep a mask of one byte a number, as accelerators' does; the CPU's keeps one of the input's type."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.forward = partial(_masked_dropout, module)


def _masked_dropout(module: nn.Dropout, x: Tensor) -> Tensor:
    return torch.native_dropout(x, module.p, True)[0] if module.training and module.p else x


def _watch(model: nn.Module, recorder: StepRecorder) -> None:
    """Begin a phase wherever a block starts, in both directions."""
    tower = next((m for name, m in model.named_modules() if name.endswith("model.visual")), None)
    layers = next(m for name, m in model.named_modules() if name.endswith("decoder.lm.model")).layers
    if tower is not None:
        _watch_blocks(tower.blocks, TOWER, recorder, after="inputs of the LM", before="the patches")
    _watch_blocks(layers, LM, recorder, after="loss", before="the LM's inputs")


def _watch_blocks(blocks: nn.ModuleList, kind: str, recorder: StepRecorder, after: str, before: str) -> None:
    def in_forward() -> bool:  # activation checkpointing runs the blocks once more, within the backward
        return not recorder.present.startswith("backward")

    def on_gradient(tensor: Tensor, name: str, block: int | None = None) -> None:
        if tensor.requires_grad:
            tensor.register_hook(lambda _: recorder.begin(f"backward of {name}", block))

    def watch(block: nn.Module, place: int) -> None:
        def enter(_, args):
            if in_forward():
                recorder.begin(kind, place)
                if place == 0:
                    on_gradient(args[0], before)

        def leave(_, args, output):
            if in_forward():
                on_gradient(output, kind, place)
                if place == len(blocks) - 1:
                    recorder.begin(after)

        block.register_forward_pre_hook(enter)
        block.register_forward_hook(leave)

    for place, block in enumerate(blocks):
        watch(block, place)


def unfold(phases: list[Phase], depths: dict[str, int]) -> list[Phase]:
    """The phases of the whole network, from those of a shortened one: the second block stands for all between the
    first and the last two."""
    traced = {kind: max((p.block + 1 for p in phases if p.name == kind), default=0) for kind in depths}
    missing = {kind: depths[kind] - count for kind, count in traced.items() if count}
    whole = []
    for phase in phases:
        kind = _kind(phase)
        more = missing.get(kind, 0) if phase.block is not None else 0
        if phase.block == 1 and more:
            blocks = range(1, more + 2)
            whole += [replace(phase, block=block) for block in (reversed(blocks) if phase.backward else blocks)]
        elif phase.block is None:
            # It may let go of what every block made, as the end of mixed precision does of cast weights.
            freed = sum(size * missing.get(maker.removeprefix(_BACKWARD), 0) for maker, size in phase.let_go.items())
            whole.append(replace(phase, held=phase.held - freed))
        else:
            whole.append(replace(phase, block=phase.block + more if phase.block else 0))
    return whole


def _kind(phase: Phase) -> str:
    return phase.name.removeprefix(_BACKWARD)
