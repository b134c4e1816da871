"""Updates that would destroy the weights are not made."""

from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor

from callbacks.faults import FaultCallback, listed
from emu2_lit.errors import UserError

_ADVICE = (
    "Lower optimizer.lr or lengthen optimizer.warmup_steps; with 16-bit floats, take trainer.precision=bf16-mixed; "
    "if it is always the same samples, look at them"
)


class NonFiniteGuard(FaultCallback):
    """Drops the update of a step whose loss or gradient is not finite, on any rank, and stops the run after `limit`
    such steps in a row.

    A dropped step leaves weights, optimizer and schedule as they are; the samples count as used, so the run goes on
    with the next ones, also after a resume. The gradients are taken away instead of the step: an optimizer does
    nothing for a parameter without one, and Lightning counts the step as usual. A module that has a schedule leaves
    it alone where `update_skipped` is set, as `TuningModule` does.

    Costs one exchange of one number between the ranks and one wait for the device in each optimizer step.

    Where the strategy makes the step itself (DeepSpeed), the loss alone is looked at, and the first bad one ends the
    run. Gradients that overflow in 16-bit floats are the scaler's to handle, which drops the step as well.

    Args:
        limit: 1 stops at once, None never.
        path: where the samples of dropped steps are written.
    Raises:
        UserError: `limit` steps in a row were bad; on every rank.
    """

    def __init__(self, limit: int | None = 5, path: str | Path | None = None):
        super().__init__(path)
        self.limit = limit
        self._state = {"in_a_row": 0, "skipped_updates": 0}
        self._finite: list[Tensor] = []  # of each micro-batch of the window, on the device

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        self._finite = []

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        self._finite.append(loss.detach().isfinite())

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        """Gradients are accumulated and averaged over ranks here, and not yet clipped."""
        finite, self._finite = torch.stack(self._finite).flatten(), []
        everything = torch.cat([finite, self._gradient_is_finite(trainer, optimizer).to(finite.device)])
        bad = trainer.strategy.reduce((~everything.all()).float(), reduce_op="max")
        pl_module.update_skipped = bool(bad)
        if not pl_module.update_skipped:
            self._state["in_a_row"] = 0
            return
        optimizer.zero_grad(set_to_none=True)
        self._tell(trainer, finite.tolist())

    def _gradient_is_finite(self, trainer: Trainer, optimizer: Any) -> Tensor:
        """One truth value, or none where gradients are not ours to judge."""
        if trainer.strategy.handles_gradient_accumulation or getattr(trainer.precision_plugin, "scaler", None):
            return torch.ones(0, dtype=torch.bool)
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        local = [gradient.to_local() if hasattr(gradient, "to_local") else gradient for gradient in gradients]
        return torch.nn.utils.get_total_norm(local).isfinite().reshape(1)

    def _tell(self, trainer: Trainer, finite: list[bool]) -> None:
        state, step = self._state, trainer.global_step + 1
        state["in_a_row"] += 1
        state["skipped_updates"] += 1
        loss = float(trainer.callback_metrics.get("train/loss", torch.nan))
        micro_batches = self.micro_batches[-len(finite) :]
        suspects = [row for rows, good in zip(micro_batches, finite, strict=True) if not good for row in rows]
        samples = self.note(trainer, step, "not finite", [row for rows in micro_batches for row in rows], loss=loss)
        suspects = self.everyones(trainer, suspects) or samples
        told = f"step {step}: the loss ({loss:.4g}) or its gradient is not finite, with the samples {listed(suspects)}"
        if trainer.strategy.handles_gradient_accumulation:
            raise UserError(f"{told}. The strategy would make the step all the same, so the run stops. {_ADVICE}")
        if self.limit is not None and state["in_a_row"] >= self.limit:
            raise UserError(
                f"{told}. {state['in_a_row']} update(s) in a row were dropped (the limit is {self.limit}), and the "
                f"weights are those of the last good step. {_ADVICE}"
            )
        rank_zero_warn(f"{told}. The update is dropped, and the run goes on with the next samples")

    def totals(self) -> dict[str, int]:
        return {"skipped_updates": self._state["skipped_updates"]}

    def state_dict(self) -> dict[str, Any]:
        return dict(self._state)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._state.update(state_dict)
