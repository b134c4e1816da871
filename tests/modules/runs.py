"""Short real runs of modules, for tests that compare them."""

import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningDataModule, Trainer
from torch import Tensor

from callbacks import Rehearsal
from datamodules.chat import ChatDataModule
from emu2_lit.model import Emu2Config, Emu2Processor
from emu2_lit.modules import ChatTuning, TuningModule
from emu2_lit.plan import Workload
from emu2_lit.recipe.schema import TrainerSection
from emu2_lit.settings import LoraSettings, OptimizerSettings, SourceSettings
from emu2_lit.strategies import AtomicCheckpointIO
from emu2_lit.strategies.choose import build_strategy
from emu2_lit.strategies.shard import whole

STEPS = 6  # the schedule of every run is laid out over so many


@dataclass
class Ran:
    """What a run left: trained tensors by name, the loss of each of its steps, its checkpoint, and the norm of the
    first step's gradient where it made that step."""

    trained: dict[str, Tensor]
    losses: dict[int, float]
    checkpoint: Path
    norm: float | None


class _Recorder(Callback):
    """Notes each step's loss; after `stop` steps saves a checkpoint and ends the run."""

    def __init__(self, stop: int, checkpoint: Path):
        self.stop, self.checkpoint = stop, checkpoint
        self.losses: dict[int, float] = {}

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        if (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        self.losses[trainer.global_step] = float(trainer.callback_metrics["train/loss"])
        if trainer.global_step == self.stop:
            trainer.save_checkpoint(self.checkpoint)
            trainer.should_stop = True


def chat_run(
    digits: Path,
    root: Path,
    *,
    stop: int = STEPS,
    micro: int = 4,
    accumulate: int = 2,
    resume: Path | None = None,
    lora: bool = True,
    dropout: float = 0.0,
    checkpointing: bool = False,
    workers: int = 0,
    strategy: str | None = None,
    rehearsed: bool = False,
    packing: bool = False,
    **options: Any,
) -> Ran:
    """Tune the tiny preset on the digits, on as many processes as were started."""
    config = Emu2Config.preset("tiny")
    processor = Emu2Processor.for_config(config.with_role_tokens())
    module = ChatTuning(
        config,
        processor,
        lora=LoraSettings(rank=4, dropout=dropout) if lora else None,
        optimizer=OptimizerSettings(lr=1e-3, warmup_steps=2),
        activation_checkpointing=checkpointing,
    )
    datamodule = ChatDataModule(
        sources=[SourceSettings(path=str(digits / "chat_train.json"), system_message="concise")],
        processor=processor,
        micro_batch_size=micro,
        max_length=256,
        workers=workers,
        packing=packing,
    )
    rehearsal = Rehearsal(partial(_blank_batch, config.with_role_tokens()), wanted=rehearsed)
    return run(
        module, datamodule, root, rehearsal, stop=stop, accumulate=accumulate, resume=resume, strategy=strategy,
        **options,
    )  # fmt: skip


def _blank_batch(config: Emu2Config) -> dict[str, Tensor]:
    load = Workload(samples=2, length=100)
    pixels = {name: torch.zeros(shape) for name, shape in load.pictures(config).items()}
    return load.batch(config) | pixels


def run(
    module: TuningModule,
    datamodule: LightningDataModule,
    root: Path,
    *callbacks: Callback,
    stop: int = STEPS,
    accumulate: int = 1,
    resume: Path | None = None,
    strategy: str | None = None,
    precision: str = "32-true",
    tensor_parallel: int = 1,
) -> Ran:
    """Train a module on as many processes as were started."""
    torch.use_deterministic_algorithms(True)
    recorder = _Recorder(stop, root / f"step-{stop}.ckpt")
    world_size = int(os.environ.get("WORLD_SIZE", 1))
    settings = TrainerSection(shard_devices=2, tensor_parallel=tensor_parallel)
    trainer = Trainer(
        default_root_dir=root,
        max_steps=STEPS,
        accumulate_grad_batches=accumulate,
        accelerator="cpu",
        devices=world_size,
        strategy=build_strategy(strategy or ("ddp" if world_size > 1 else "auto"), settings),
        precision=precision,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        gradient_clip_val=1.0,
        callbacks=[recorder, *callbacks],
        plugins=[AtomicCheckpointIO()],
    )
    trainer.fit(module, datamodule, ckpt_path=resume)
    trained = {name: whole(p).detach().clone() for name, p in module.named_parameters() if p.requires_grad}
    norm = trainer.callback_metrics.get("train/grad_norm")
    return Ran(trained, recorder.losses, recorder.checkpoint, None if norm is None else float(norm))
