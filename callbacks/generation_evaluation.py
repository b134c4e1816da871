"""Scores of drawings while it trains."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from peft import PeftModel

from callbacks.drawing_callback import DrawingCallback
from callbacks.generation_pictures import tasks_sheet
from callbacks.in_context_base import tower_is_frozen
from emu2_lit.errors import UserError
from emu2_lit.evaluation.drawing_benchmark import DrawingBenchmark
from emu2_lit.evaluation.drawing_runner import DrawnPictures
from emu2_lit.evaluation.encoders import Judges, open_judges
from emu2_lit.model import Emu2Generator, Emu2VisualDecoder
from emu2_lit.settings import DrawingSettings, EncoderSettings

Figures = dict[str, float]  # "dreambench/clip_i" -> mean over the prompts


class GenerationEvaluation(DrawingCallback):
    """Scores benchmarks that draw, at every validation, and once the untouched model before the first step.

    Logs `generation/{benchmark}/{metric}` and `generation_base/...`. Leaves sheets in `generation/{benchmark}/` (which
    loggers and the report show) and the latest pictures in `drawings/`, under the run folder. Ranks share the prompts.

    Args:
        benchmarks: see `evaluation/drawing_benchmark.py`; `limit` at `open_benchmark` keeps them short.
        decoder, drawing, run_dir: see `DrawingCallback`.
        encoders: what judges the pictures; or the judges themselves.
        grid: prompts drawn on the sheet of each benchmark.

    Raises:
        UserError: two benchmarks of one name.

    Attributes:
        base, figures: the latest, of the untouched and of the tuned model; base is None where it cannot be had.
    """

    def __init__(
        self,
        benchmarks: Sequence[DrawingBenchmark],
        decoder: Emu2VisualDecoder | Callable[[], Emu2VisualDecoder],
        drawing: DrawingSettings | None = None,
        encoders: EncoderSettings | Judges | None = None,
        grid: int = 4,
        run_dir: str | Path | None = None,
    ):
        super().__init__(decoder, drawing, run_dir)
        self.benchmarks, self.encoders, self.grid = list(benchmarks), encoders or EncoderSettings(), grid
        if len({benchmark.name for benchmark in self.benchmarks}) < len(self.benchmarks):
            raise UserError("generation evaluation: two benchmarks have the same name")
        self.base: Figures | None = None
        self.figures: Figures = {}
        self._judges: Judges | None = None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._judges = None  # the model may be another in the next fit

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure the untouched model; a resumed run knows the figures from its checkpoint."""
        super().on_train_start(trainer, pl_module)
        if trainer.fast_dev_run:
            return
        if self.base is None:
            if trainer.global_step and not isinstance(pl_module.model, PeftModel):
                rank_zero_warn("The untouched model's drawings cannot be scored: full tuning is already under way")
                return
            self.base = self._measure(trainer, pl_module, base=True)
            for logger in trainer.loggers:
                logger.log_metrics(_named("generation_base", self.base), step=trainer.global_step)
        for name, value in _named("generation_base", self.base).items():
            trainer.callback_metrics[name] = torch.tensor(value)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.sanity_checking or trainer.fast_dev_run:
            return
        self.figures = self._measure(trainer, pl_module, base=False)
        for name, value in (_named("generation", self.figures) | _named("generation_base", self.base)).items():
            self.log(name, value, sync_dist=True)  # the same on all ranks

    def _measure(self, trainer: Trainer, pl_module: LightningModule, base: bool) -> Figures:
        figures: Figures = {}
        with self.measuring(trainer, pl_module, base) as generator:
            judges = self._open_judges(generator)
            for benchmark in self.benchmarks:
                pictures = DrawnPictures(
                    self.folder(trainer) / "drawings" / benchmark.name / ("base" if base else "latest"),
                    benchmark.pictures_per_task,
                )  # fmt: skip
                self.draw_anew(trainer, generator, benchmark.tasks, pictures)
                scored, _ = benchmark.score(benchmark.tasks, pictures.read, judges)
                figures |= {benchmark.logged(name): one for name, one in scored.items() if math.isfinite(one)}
                if trainer.is_global_zero and self.grid and not base:
                    self.show(trainer, benchmark.name, tasks_sheet(benchmark.tasks, pictures.read, self.grid))
        return figures

    def _open_judges(self, generator: Emu2Generator) -> Judges:
        """Kept for the fit, unless the tower is one of them and learns."""
        if isinstance(self.encoders, Judges):
            return self.encoders
        judges = self._judges or open_judges(
            self.encoders, generator.model, generator.processor, generator.device
        )  # fmt: skip
        self._judges = judges if tower_is_frozen(generator.model) else None
        return judges

    def state_dict(self) -> dict[str, Any]:
        return {"base": self.base}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.base = state_dict["base"]


def _named(prefix: str, figures: Figures | None) -> dict[str, float]:
    return {f"{prefix}/{name}": value for name, value in (figures or {}).items()}
