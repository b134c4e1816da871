"""Parameter groups and learning-rate schedules."""

import math
from collections import defaultdict

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from emu2_lit.errors import UserError
from emu2_lit.model.parts import part_of
from emu2_lit.settings import OptimizerSettings
from emu2_lit.strategies.shard import on_one_mesh

SCHEDULES = ("cosine", "linear", "constant")
_NO_DECAY = ("cls_token", "pos_embed")  # as in the tower's own pretraining


def parameter_groups(model: nn.Module, settings: OptimizerSettings) -> list[dict]:
    """What trains, by part of the network where a part has a rate of its own, with weight decay on matrices only.

    Returns:
        Groups of `params`, `weight_decay`, `lr` and `part` (empty for all that share `settings.lr`).
    Raises:
        UserError: nothing trains, or a rate is given to a part that does not train.
    """
    groups: dict[tuple[str, bool], list[nn.Parameter]] = defaultdict(list)
    rates = settings.part_lr.given()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            part = part_of(name) if part_of(name) in rates else ""
            groups[part, parameter.ndim > 1 and not name.endswith(_NO_DECAY)].append(parameter)
    if not groups:
        raise UserError("nothing trains: check tuning.method and tuning.frozen")
    if idle := sorted(set(rates) - {part for part, _ in groups}):
        raise UserError(
            f"optimizer.part_lr: {', '.join(idle)} does not train here; leave it out, or check tuning.method and "
            "tuning.frozen"
        )
    return [
        {
            "params": groups[part, matrix], "weight_decay": settings.weight_decay if matrix else 0.0,
            "lr": rates.get(part, settings.lr), "part": part,
        }
        for part, matrix in sorted(groups, key=lambda key: (key[0], not key[1]))
    ]  # fmt: skip


def make_optimizer(model: nn.Module, settings: OptimizerSettings) -> Optimizer:
    """AdamW over what trains.

    Raises:
        UserError: as `parameter_groups`; or bitsandbytes is asked for and not installed.
    """
    groups = parameter_groups(model, settings)
    common = dict(lr=settings.lr, betas=tuple(settings.betas), eps=settings.eps)
    if settings.name == "adamw_8bit":
        return _adamw_8bit()(groups, **common)
    trained = [parameter for group in groups for parameter in group["params"]]
    on_gpu = all(parameter.is_cuda for parameter in trained)
    together = on_one_mesh(trained)  # else they are updated one by one
    fused = (on_gpu if settings.fused is None else settings.fused) and together
    optimizer = torch.optim.AdamW(groups, **common, fused=fused, foreach=None if together else False)
    # A fused update could unscale float16 gradients itself; Lightning would then refuse to clip them.
    optimizer._step_supports_amp_scaling = False
    return optimizer


def _adamw_8bit() -> type[Optimizer]:
    try:
        from bitsandbytes.optim import AdamW8bit
    except ImportError as error:
        raise UserError("optimizer.name: bitsandbytes is not installed; pip install 'emu2-lit[qlora]'") from error
    return AdamW8bit


def schedule(optimizer: Optimizer, settings: OptimizerSettings, total_steps: int) -> LambdaLR:
    """Warm-up to the peak, then cosine, linear or constant to the last step.

    Raises:
        UserError: an unknown schedule, or no number of steps.
    """
    if settings.schedule not in SCHEDULES:
        raise UserError(f"optimizer.schedule: {settings.schedule!r}; one of {', '.join(SCHEDULES)}")
    if total_steps < 1:
        raise UserError("trainer.max_steps must be set: the schedule and the order of samples are laid out over it")
    return LambdaLR(optimizer, lambda step: learning_rate_factor(step, settings, total_steps))


def apply_settings(optimizer: Optimizer, scheduler: LambdaLR, settings: OptimizerSettings, groups: list[dict]) -> None:
    """Let the settings rule an optimizer restored from a checkpoint, which brings those that it was saved with; where
    they are the same, nothing changes.

    Args:
        groups: what `parameter_groups` gives.
    """
    defaults = getattr(optimizer, "defaults", {})  # DeepSpeed's has none
    for group, wanted, factor in zip(optimizer.param_groups, groups, scheduler.lr_lambdas, strict=True):
        rate = wanted["lr"]
        group.update(betas=tuple(settings.betas), eps=settings.eps, weight_decay=wanted["weight_decay"])
        group.update(initial_lr=rate, lr=rate * factor(scheduler.last_epoch))
        here = {key: defaults[key] for key in ("fused", "foreach") if key in group and key in defaults}
        group.update(here)  # as this machine has it
    scheduler.base_lrs = [wanted["lr"] for wanted in groups]


def learning_rate_factor(step: int, settings: OptimizerSettings, total_steps: int) -> float:
    """The share of the peak learning rate that optimizer step `step` (from 0) runs at."""
    warmup = min(settings.warmup_steps, total_steps)
    if step < warmup:
        done = step + 1
        return math.log(done + 1) / math.log(warmup + 1) if settings.warmup == "log" else done / warmup
    if settings.schedule == "constant":
        return 1.0
    progress = min((step - warmup) / max(total_steps - warmup, 1), 1.0)
    decay = 0.5 * (1 + math.cos(math.pi * progress)) if settings.schedule == "cosine" else 1 - progress
    return settings.min_lr_ratio + (1 - settings.min_lr_ratio) * decay
