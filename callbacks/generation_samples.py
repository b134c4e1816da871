"""Drawings of fixed prompts while it trains: what does tuning change?"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from peft import PeftModel

from callbacks.drawing_callback import DrawingCallback
from callbacks.generation_pictures import Captioned, sheet, shown
from emu2_lit.errors import UserError
from emu2_lit.evaluation.drawing_benchmark import DrawingTask
from emu2_lit.evaluation.drawing_runner import DrawnPictures
from emu2_lit.model import Emu2VisualDecoder
from emu2_lit.settings import DrawingSettings


class GenerationSamples(DrawingCallback):
    """Draws the same prompts from the same noise, every so many steps, beside the drawings of the untouched model.

    The untouched model is the same without its adapters or, in full tuning, the model before its first step. Leaves
    `generation/samples/step=0000100.png` (a sheet, which loggers and the report show) and the pictures themselves in
    `drawings/samples/`, under the run folder. Ranks share the prompts.

    Args:
        prompts: each a list of texts (str) and pictures (Path or PIL image), as `Emu2Generator.generate` takes them.
        decoder, run_dir: see `DrawingCallback`.
        drawing: `images_per_prompt` pictures are drawn of each; the seed is mixed with the prompt's place.
        every_n_steps: optimizer steps between two sheets; there is one at the end of a finished fit, too.
    """

    def __init__(
        self,
        prompts: Sequence[Sequence[Any]],
        decoder: Emu2VisualDecoder | Callable[[], Emu2VisualDecoder],
        drawing: DrawingSettings | None = None,
        every_n_steps: int = 500,
        run_dir: str | Path | None = None,
    ):
        super().__init__(decoder, drawing, run_dir)
        if not prompts:
            raise UserError("generation samples: no prompts are given")
        self.every_n_steps = every_n_steps
        self.tasks = [DrawingTask(f"{place:02d}", tuple(prompt)) for place, prompt in enumerate(prompts)]
        self._drawn_at: int | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw with the untouched model; a resumed run finds its drawings."""
        super().on_train_start(trainer, pl_module)
        self._drawn_at = None
        base = self._pictures(trainer, "base")
        resumed = trainer.global_step > 0
        if trainer.fast_dev_run or (resumed and not self._incomplete(base)):
            return
        if resumed and not isinstance(pl_module.model, PeftModel):
            rank_zero_warn("The untouched model cannot draw any more: full tuning is already under way")
            return
        with self.measuring(trainer, pl_module, base=True) as generator:
            self.draw_anew(trainer, generator, self.tasks, base)

    def on_step_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.global_step % self.every_n_steps == 0:
            self._draw(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        stopped = trainer.global_step < trainer.max_steps  # it is to end soon, and will be resumed
        if trainer.global_step and self._drawn_at != trainer.global_step and not stopped:
            self._draw(trainer, pl_module)

    def _draw(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.fast_dev_run:
            return
        self._drawn_at = trainer.global_step
        tuned = self._pictures(trainer, f"step={trainer.global_step:07d}")
        with self.measuring(trainer, pl_module, base=False) as generator:
            self.draw_anew(trainer, generator, self.tasks, tuned)
        if trainer.is_global_zero:
            self.show(trainer, "samples", sheet([self._row(task, trainer, tuned) for task in self.tasks]))

    def _row(self, task: DrawingTask, trainer: Trainer, tuned: DrawnPictures) -> list[Captioned]:
        """The prompt, the untouched model's drawings, the tuned one's."""
        base = self._pictures(trainer, "base")
        columns = {} if base.missing(task) else {"untouched model": base}
        columns[f"after {trainer.global_step} steps"] = tuned
        drawn = [(picture, title) for title, pictures in columns.items() for picture in pictures.read(task)]
        return [*shown(task.prompt), *drawn]

    def _pictures(self, trainer: Trainer, name: str) -> DrawnPictures:
        return DrawnPictures(
            self.folder(trainer) / "drawings" / "samples" / name, self.drawing.images_per_prompt
        )  # fmt: skip

    def _incomplete(self, pictures: DrawnPictures) -> bool:
        return any(pictures.missing(task) for task in self.tasks)
