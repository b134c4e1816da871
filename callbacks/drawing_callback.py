"""What callbacks that draw in the middle of a fit share."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

from lightning import LightningModule, Trainer
from PIL import Image

from callbacks.in_context_base import untouched
from callbacks.steps import StepCallback
from callbacks.undisturbed import log_image, undisturbed
from emu2_lit.evaluation.drawing_benchmark import DrawingTask
from emu2_lit.evaluation.drawing_runner import DrawnPictures, draw
from emu2_lit.model import Emu2Generator, Emu2VisualDecoder
from emu2_lit.settings import DrawingSettings


class DrawingCallback(StepCallback):
    """Draws with the module's model and a decoder that training knows nothing of.

    On an accelerator the decoder waits in main memory and visits the device while it draws. Random states, modes and
    weights are left as they were.

    Args:
        decoder: or what opens it, called when it is first needed.
        run_dir: default the trainer's `default_root_dir`.
    """

    def __init__(
        self, decoder: Emu2VisualDecoder | Callable[[], Emu2VisualDecoder], drawing: DrawingSettings | None = None,
        run_dir: str | Path | None = None,
    ):  # fmt: skip
        self.drawing, self.run_dir = drawing or DrawingSettings(), run_dir
        self._decoder = decoder

    @contextmanager
    def measuring(self, trainer: Trainer, pl_module: LightningModule, base: bool) -> Iterator[Emu2Generator]:
        """Evaluation mode, and with `base` no adapters, for the length of a block."""
        with undisturbed(pl_module):
            if not isinstance(self._decoder, Emu2VisualDecoder):
                self._decoder = self._decoder()
            if pl_module.device.type != "cpu":
                self._decoder.offload(pl_module.device)
            with untouched(pl_module.model) if base else nullcontext():
                yield Emu2Generator(pl_module.model, pl_module.processor, self._decoder)

    def draw_anew(
        self, trainer: Trainer, generator: Emu2Generator, tasks: Sequence[DrawingTask], pictures: DrawnPictures
    ) -> None:
        """Draw all in the fit's precision, whatever an earlier fit has left there. Judges keep their own precision."""
        pictures.clear()
        with trainer.precision_plugin.forward_context():
            draw(generator, tasks, self.drawing, pictures)

    def folder(self, trainer: Trainer) -> Path:
        return Path(self.run_dir or trainer.default_root_dir)

    def show(self, trainer: Trainer, name: str, sheet: Image.Image) -> None:
        """Keep a sheet in the run folder, from where the report takes it, and give it to the loggers."""
        path = self.folder(trainer) / "generation" / name / f"step={trainer.global_step:07d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        sheet.save(path)
        log_image(trainer, f"generation/{name}", sheet)
