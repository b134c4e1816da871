"""What the kit's training step costs beyond a bare PyTorch loop: `python -m benchmarks.training_overhead`.

The goal is 2% at most. Both learn from the same batches, step by step in turn: while Lightning waits for its next
batch, the bare loop makes its step on a copy of the model. Time is that of this process's CPU, which other processes
disturb least.
"""

import argparse
import copy
import statistics
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import torch

from benchmarks.measure import keep
from emu2_lit.modules import TuningModule
from emu2_lit.recipe import Recipe, load
from emu2_lit.run import build_datamodule, build_module, build_origin, build_trainer

WARM_UP = 10  # steps, in which the kit checks gradients


class BareLoop:
    """The same model, objective and update, and nothing else."""

    def __init__(self, module: TuningModule, clip: float, steps: int):
        self.model, self.clip = copy.deepcopy(module.model), clip
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]
        settings = module.optimizer
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=settings.lr, betas=tuple(settings.betas), eps=settings.eps,
            weight_decay=settings.weight_decay,
        )  # fmt: skip
        self.scheduler = torch.optim.lr_scheduler.LinearLR(self.optimizer, 1.0, 0.01, steps)

    def step(self, inputs: dict[str, torch.Tensor], labels: torch.Tensor) -> None:
        self.optimizer.zero_grad()
        self.model(**inputs, labels=labels).loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, self.clip)
        self.optimizer.step()
        self.scheduler.step()


class InTurn:
    """A training loader that makes a bare step before it gives a batch away, and times both ways; loading itself is
    in neither."""

    def __init__(self, loader: Any, module: TuningModule, clip: float):
        self.loader, self.module, self.clip = loader, module, clip
        self.seconds: dict[str, list[float]] = {"bare loop": [], "kit": []}

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        bare = BareLoop(self.module, self.clip, len(self))
        for batch in self.loader:
            start = time.process_time()
            bare.step(self.module.inputs(batch), batch["labels"])
            middle = time.process_time()
            yield batch
            self.seconds["bare loop"].append(middle - start)
            self.seconds["kit"].append(time.process_time() - middle)


def measure(recipe: Recipe) -> dict[str, list[float]]:
    """Seconds of each step of both loops, without those of the warm-up and the last, which holds a save."""
    origin = build_origin(recipe)
    module, data = build_module(recipe, origin), build_datamodule(recipe, origin)
    trainer = build_trainer(recipe)
    timed = InTurn(None, module, recipe.trainer.gradient_clip_val)

    plain = data.train_dataloader

    def in_turn() -> InTurn:
        timed.loader = plain()
        return timed

    data.train_dataloader = in_turn
    trainer.fit(module, data)
    return {way: seconds[WARM_UP:-1] for way, seconds in timed.seconds.items()}


def main(words: list[str] | None = None) -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--preset", default="small")
    arguments.add_argument("--steps", type=int, default=60, help="timed steps of each loop")
    given = arguments.parse_args(words)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as root:
        recipe = load(
            "quickstart/chat",
            [
                f"run.dir={root}/run", f"data.folder={root}/data", "model.weights=null", f"model.preset={given.preset}",
                "data.global_batch_size=1", "data.micro_batch_size=1",
                f"trainer.max_steps={WARM_UP + given.steps + 1}",
                "trainer.val_check_interval=null", "callbacks.answers=null", "callbacks.checkpoint_every_n_steps=1000",
                "trainer.limit_val_batches=0", "data.workers=0", "tuning.lora.dropout=0",
            ],
        )  # fmt: skip
        seconds = measure(recipe)
    medians = {way: statistics.median(times) for way, times in seconds.items()}
    ratios = [kit / bare for bare, kit in zip(*seconds.values(), strict=True)]
    for way, median in medians.items():
        print(f"{way:12} {median:8.4f} s a step   {median / medians['bare loop']:6.3f}")
    print(f"{'overhead':12} {statistics.median(ratios) - 1:8.1%} (median over {len(ratios)} pairs of steps)")
    keep(
        "training_overhead", "python -m benchmarks.training_overhead", preset=given.preset, steps=len(ratios),
        clock="CPU time of the process", seconds={way: round(median, 4) for way, median in medians.items()},
        overhead=round(statistics.median(ratios) - 1, 4),
    )  # fmt: skip


if __name__ == "__main__":
    main()
