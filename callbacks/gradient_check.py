"""Stops a run that would learn nothing, or not everything that it says it trains."""

from typing import Any

import torch
from lightning import LightningModule, Trainer
from torch import Tensor

from callbacks.steps import StepCallback
from emu2_lit.errors import UserError
from emu2_lit.model.objective import IGNORE
from emu2_lit.model.parts import part_of

_NEEDS_PICTURES = {"visual", "project_up", "project_down"}
_PICTURES = ("pixel_values", "video_pixel_values", "visual_embeds", "video_embeds")
_SHOWN = 8


class GradientCheck(StepCallback):
    """Within `steps` optimizer steps every tensor that trains must once have had a finite, non-zero gradient.

    One step is not enough: `lora_A` gets none as long as `lora_B` is zero. The parts that see pictures are judged
    only after `steps` steps with pictures. DeepSpeed shows nobody its gradients, and is not judged.

    Raises:
        UserError: a trained tensor had no such gradient, or no step had a target; on all ranks at once.
    """

    def __init__(self, steps: int = 8):
        self.steps = steps

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        if trainer.strategy.handles_gradient_accumulation:
            self.steps = 0
        self._unproven = {name: p for name, p in pl_module.named_parameters() if p.requires_grad} if self.steps else {}
        self._seen = self._picture_steps = self._targets = 0
        self._pictures = False

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if self._unproven:
            self._targets += _targets(batch)
            self._pictures |= any(batch.get(key) is not None for key in _PICTURES)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        """Gradients are accumulated, averaged over ranks and unscaled here, and not yet clipped."""
        with_gradient = {name: p.grad for name, p in self._unproven.items() if p.grad is not None}
        if not with_gradient:
            return
        norms = torch.stack([_local_norm(gradient) for gradient in with_gradient.values()])
        proven = (norms.isfinite() & (norms > 0)).tolist()
        for name in (name for name, is_proven in zip(with_gradient, proven, strict=True) if is_proven):
            del self._unproven[name]

    def on_step_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._seen += 1
        self._picture_steps += self._pictures
        self._pictures = False
        if self.steps and self._seen % self.steps == 0:
            self._judge(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A run too short to be judged by its gradients must still have had something to learn."""
        if self.steps and 0 < self._seen < self.steps and not self._targets:
            raise UserError(_NO_TARGETS.format(steps=self._seen))

    def _judge(self, trainer: Trainer, pl_module: LightningModule) -> None:
        names = [name for name, p in pl_module.named_parameters() if p.requires_grad]
        # A sharded gradient may be zero in one rank's piece: what any rank has seen counts for all.
        evidence = [self._targets, self._picture_steps, *(name not in self._unproven for name in names)]
        evidence = torch.tensor(evidence, dtype=torch.int64, device=pl_module.device)
        targets, picture_steps, *proven = trainer.strategy.reduce(evidence, reduce_op="max").tolist()
        if not targets:
            raise UserError(_NO_TARGETS.format(steps=self._seen))
        missing = [name for name, is_proven in zip(names, proven, strict=True) if not is_proven]
        blamed = [name for name in missing if picture_steps >= self.steps or part_of(name) not in _NEEDS_PICTURES]
        if blamed:
            raise UserError(_no_gradient(blamed, len(names), self._seen))
        self._unproven = {name: p for name, p in self._unproven.items() if name in missing}
        if not self._unproven:
            self.steps = 0


_NO_TARGETS = (
    "Nothing to learn: the first {steps} steps had no target at all. Either no sample holds an answer that is "
    "learned, or all were skipped; `emu2-lit data check` shows which tokens are learned and data_ledger.jsonl of the "
    "run what was skipped"
)


def _no_gradient(names: list[str], trained: int, steps: int) -> str:
    listed = "\n".join(f"  {name}" for name in names[:_SHOWN])
    more = f"\n  and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return (
        f"After {steps} steps {len(names)} of {trained} trained tensors never had a finite, non-zero gradient:\n"
        f"{listed}{more}\n"
        "The loss does not reach them. Put parts that this objective does not use in tuning.frozen; if they are "
        "adapters, try tuning.activation_checkpointing=false; if losses are not finite, a higher trainer.precision "
        "or a lower optimizer.lr. callbacks.gradient_check_steps=0 turns this check off"
    )


def _local_norm(gradient: Tensor) -> Tensor:
    """Of this rank's piece where the tensor is sharded; float32, so that small bf16 values do not vanish."""
    piece = gradient.to_local() if hasattr(gradient, "to_local") else gradient
    return torch.linalg.vector_norm(piece, dtype=torch.float32)


def _targets(batch: dict[str, Any]) -> int:
    window = batch.get("window")
    if window is not None:  # counted by the loader, over the whole global batch
        return window["text_targets"] + window["visual_targets"]
    return int((batch["labels"] != IGNORE).sum())
