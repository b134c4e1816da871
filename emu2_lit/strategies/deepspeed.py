"""DeepSpeed's ZeRO through Lightning, on GPUs and on CPUs."""

import argparse
import json
import shutil
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy

from emu2_lit.errors import UserError
from emu2_lit.strategies.engine_files import ABOUT, convert, read_about_engine
from emu2_lit.strategies.publish import STAGING


class EngineStrategy(DeepSpeedStrategy):
    """ZeRO stage 2 (gradients and moments divided) or 3 (weights too), the latter filled tensor by tensor in
    `configure_model` (`emu2_lit.strategies.partition`).

    Checkpoints are DeepSpeed's folders with what trains. Another number of ranks reads them through DeepSpeed's
    universal format, made for the occasion.

    Args:
        offload: moments and float32 copies, and with stage 3 the weights, wait in main memory.
    """

    def __init__(self, stage: int, offload: bool = False):
        super().__init__(
            stage=stage, offload_optimizer=offload, offload_parameters=offload and stage == 3,
            exclude_frozen_parameters=True,
        )  # fmt: skip
        self.stage = stage
        if offload:  # torch's AdamW: DeepSpeed's own must be compiled on the spot
            self.config["zero_force_ds_cpu_optimizer"] = False

    # -- what Lightning does for CUDA alone ------------------------------------------------------------------
    def setup_environment(self) -> None:
        if self._on_cpu:
            DDPStrategy.setup_environment(self)
        else:
            super().setup_environment()

    def setup_distributed(self) -> None:
        if not self._on_cpu:
            super().setup_distributed()
            return
        import deepspeed.ops

        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # it would be compiled, for a minute and a half
        self.set_world_ranks()
        self._init_deepspeed_distributed()

    def _setup_model_and_optimizer(self, model, optimizer, lr_scheduler=None):
        """As Lightning, which gives DeepSpeed no rank where devices have no index; and tables that are float32 for
        their precision stay so."""
        import deepspeed

        exact = {name: buffer.clone() for name, buffer in model.named_buffers() if buffer.dtype == torch.float32}
        index = self.root_device.index
        engine, made, _, _ = deepspeed.initialize(
            args=argparse.Namespace(device_rank=self.local_rank if index is None else index), config=self.config,
            model=model, model_parameters=[p for p in model.parameters() if p.requires_grad], optimizer=optimizer,
            lr_scheduler=lr_scheduler, dist_init_required=False,
        )  # fmt: skip
        for name, buffer in model.named_buffers():
            if name in exact:
                buffer.data = exact[name].to(buffer.device)
        self._engine = engine
        return engine, made

    def _initialize_deepspeed_inference(self, model) -> None:
        """A validation after the last step goes on with the engine that has trained."""
        self.model = self._engine
        model.to(self.root_device)  # Lightning moves models to main memory at the end of a fit

    def model_sharded_context(self):
        """The module divides itself, for which it needs the configuration."""
        self._init_config_if_needed()
        return nullcontext()

    def backward(self, closure_loss: torch.Tensor, optimizer: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Lightning has divided the loss by the micro-batches of a step; the engine would do so once more, and compare
        too small a gradient with the limit of the clipping."""
        return super().backward(closure_loss, optimizer, *args, scale_wrt_gas=False, **kwargs)

    @property
    def _on_cpu(self) -> bool:
        return self.root_device.type == "cpu"

    def optimizer_state(self, optimizer: Any) -> dict[str, Any]:
        """The engine writes it."""
        return {}

    # -- checkpoints -----------------------------------------------------------------------------------------
    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: str | Path, storage_options: Any = None) -> None:
        super().save_checkpoint(checkpoint, str(filepath), storage_options)
        if self.is_global_zero:
            trained = {
                name: list(getattr(p, "ds_shape", p.shape))
                for name, p in self.lightning_module.named_parameters()
                if p.requires_grad
            }
            about = {"stage": self.stage, "world_size": self.world_size, "trained": trained}
            (Path(filepath) / ABOUT).write_text(json.dumps(about))
        self.barrier()

    def load_checkpoint(self, checkpoint_path: str | Path, weights_only: bool | None = None) -> dict[str, Any]:
        """Raises UserError where another strategy wrote it, or the run trains something else."""
        path = Path(self.broadcast(str(checkpoint_path)))
        about = read_about_engine(path)
        if about is None or about["stage"] != self.stage:
            wrote = "another strategy" if about is None else f"deepspeed_stage_{about['stage']}"
            raise UserError(
                f"{path}: {wrote} wrote this checkpoint, and deepspeed_stage_{self.stage} cannot go on "
                "from it; take the strategy that wrote it, or export it and start from the result"
            )
        outline = {name: torch.empty(shape, device="meta") for name, shape in about["trained"].items()}
        self.lightning_module.on_load_checkpoint({"state_dict": outline})  # DeepSpeed's own messages say little
        if about["world_size"] == self.world_size:
            state = super().load_checkpoint(str(path), weights_only)
        else:
            state = self._load_converted(path, weights_only)
        return state | {"state_dict": outline}

    def _load_converted(self, path: Path, weights_only: bool | None) -> dict[str, Any]:
        folder = path.parent / STAGING / f"universal-{path.name}"
        if self.is_global_zero:
            convert(path, folder)
        self.barrier()
        self.deepspeed_engine._config.load_universal_checkpoint = True
        try:
            return super().load_checkpoint(str(folder), weights_only)
        finally:
            self.deepspeed_engine._config.load_universal_checkpoint = False
            self.barrier()
            if self.is_global_zero:
                shutil.rmtree(folder, ignore_errors=True)


def stages() -> dict[str, Any]:
    """Builders of the strategies, by the names that recipes give them."""
    names = {f"deepspeed_stage_{stage}{'_offload' * off}": (stage, off) for stage in (2, 3) for off in (False, True)}
    return {name: lambda trainer, how=how: _build(*how) for name, how in names.items()}


def _build(stage: int, offload: bool) -> EngineStrategy:
    try:
        import deepspeed  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"trainer.strategy=deepspeed_stage_{stage}: DeepSpeed is not installed; pip install 'emu2-lit[deepspeed]'"
        ) from error
    return EngineStrategy(stage, offload)
