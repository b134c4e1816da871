"""Parameter groups and learning-rate schedules."""

import math

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from emu2_lit.errors import UserError
from emu2_lit.settings import OptimizerSettings

SCHEDULES = ("cosine", "linear", "constant")
_NO_DECAY = ("cls_token", "pos_embed")  # as in the tower's own pretraining


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """What trains, with weight decay on matrices only.

    Raises:
        UserError: nothing trains.
    """
    decayed, plain = [], []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            matrix = parameter.ndim > 1 and not name.endswith(_NO_DECAY)
            (decayed if matrix else plain).append(parameter)
    if not decayed and not plain:
        raise UserError("nothing trains: check tuning.method and tuning.frozen")
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def schedule(optimizer: Optimizer, settings: OptimizerSettings, total_steps: int) -> LambdaLR:
    """Linear warm-up to the peak, then cosine, linear or constant to the last step.

    Raises:
        UserError: an unknown schedule, or no number of steps.
    """
    if settings.schedule not in SCHEDULES:
        raise UserError(f"optimizer.schedule: {settings.schedule!r}; one of {', '.join(SCHEDULES)}")
    if total_steps < 1:
        raise UserError("trainer.max_steps must be set: the schedule and the order of samples are laid out over it")
    return LambdaLR(optimizer, lambda step: learning_rate_factor(step, settings, total_steps))


def learning_rate_factor(step: int, settings: OptimizerSettings, total_steps: int) -> float:
    """The share of the peak learning rate that optimizer step `step` (from 0) runs at."""
    warmup = min(settings.warmup_steps, total_steps)
    if step < warmup:
        return (step + 1) / warmup
    if settings.schedule == "constant":
        return 1.0
    progress = min((step - warmup) / max(total_steps - warmup, 1), 1.0)
    decay = 0.5 * (1 + math.cos(math.pi * progress)) if settings.schedule == "cosine" else 1 - progress
    return settings.min_lr_ratio + (1 - settings.min_lr_ratio) * decay
