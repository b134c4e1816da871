"""Short runs that are stopped, killed and resumed, and what they must have in common."""

import os
import signal
from pathlib import Path
from typing import Any

import torch
from lightning import Callback

from callbacks import find_last_checkpoint
from emu2_lit.run import assemble, fit
from tests.distributed import start_child
from tests.run.conftest import chat_recipe

KINDS = {
    "one source": ["data.sources.0.limit=20"],  # 48 samples are drawn: it is seen twice and a half
    "several sources": ["data.sources.0.weight=3", "data.sources.0.limit=20", "data.sources.1.weight=1.5"],
    "packed rows": [
        "data.packing=true", "data.max_length=400", "data.sources.0.weight=3", "data.sources.0.limit=50",
        "data.sources.1.weight=1.5",
    ],
    "one type in a step": [
        "data.types=[{name: many, batch_size: 8, weight: 2}, {name: few, batch_size: 4}]", "data.mixing=alternate",
        "data.sources.0.type=many", "data.sources.1.type=few", "data.sources.1.limit=10", "data.global_batch_size=128",
        "data.micro_batch_size=2",
    ],
    "all types in a step": [
        "data.types=[{name: many, batch_size: 8}, {name: few, batch_size: 4}]", "data.mixing=together",
        "data.sources.0.type=many", "data.sources.1.type=few", "data.global_batch_size=128", "data.micro_batch_size=4",
    ],
}  # fmt: skip


def quiet(folder: Path, base: Path, *overrides: str):
    """Six steps of two micro-batches, with dropout, a checkpoint at every second, and nothing but training."""
    return chat_recipe(
        folder, base, "trainer.deterministic=true", "tuning.lora.dropout=0.2", "trainer.val_check_interval=null",
        "callbacks.answers=null", "callbacks.report=false", "run.logger=[]", "trainer.enable_progress_bar=false",
        *overrides,
    )  # fmt: skip


def mixed(kind: str, folder: Path, base: Path, *overrides: str):
    """The same from the sources of one of KINDS."""
    second = []
    if any("sources.1" in override for override in KINDS[kind]):
        data = folder / "data" / "digits"
        second = [f"data.sources.1.path={data}/chat_val.json", "data.sources.1.name=second"]
    return quiet(folder, base, *second, *KINDS[kind], *overrides)


class SignalAt(Callback):
    """Sends this process a signal at the start of a micro-batch of a step (both from 0)."""

    def __init__(self, step: int, micro_batch: int = 0, number: signal.Signals = signal.SIGTERM):
        self.place, self.number = (step, micro_batch), number

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if (batch["window"]["step"], batch["window"]["micro_batch"]) == self.place:
            os.kill(os.getpid(), self.number)


def fit_with(recipe, *callbacks: Callback):
    """`fit`, with callbacks beside those of the recipe."""
    build = assemble.build_callbacks
    assemble.build_callbacks = lambda *arguments: [*build(*arguments), *callbacks]
    try:
        return fit(recipe)
    finally:
        assemble.build_callbacks = build


def killed(recipe, *callbacks: Callback) -> None:
    """Run a recipe in a process that kills itself."""
    process = start_child(fit_with, recipe, *callbacks)
    process.join()
    assert process.exitcode == -signal.SIGKILL, process.exitcode


def final_state(folder: Path) -> dict[str, Any]:
    """What training has made: weights, optimizer, schedule, data counters."""
    saved = torch.load(find_last_checkpoint(folder / "checkpoints"), weights_only=True)
    return {name: saved[name] for name in ("global_step", "state_dict", "optimizer_states", "lr_schedulers")} | {
        "consumed": saved["ChatDataModule"]["consumed"]
    }


def assert_identical(left: Any, right: Any, where: str = "") -> None:
    """Bit by bit."""
    if isinstance(left, dict):
        assert left.keys() == right.keys(), where
        for name in left:
            assert_identical(left[name], right[name], f"{where}.{name}")
    elif isinstance(left, list | tuple):
        assert len(left) == len(right), where
        for place, pair in enumerate(zip(left, right, strict=True)):
            assert_identical(*pair, f"{where}.{place}")
    elif isinstance(left, torch.Tensor):
        assert left.dtype == right.dtype and torch.equal(left, right), where
    else:
        assert left == right, (where, left, right)
