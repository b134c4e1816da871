"""Answers generated while it trains: a number, a sheet of pictures, a file to read."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from lightning import Callback, LightningModule, Trainer
from lightning.fabric.utilities import move_data_to_device
from PIL import Image
from torch import Tensor, nn

from callbacks.grid import Cell, draw_grid
from callbacks.records import json_line, write_text
from callbacks.undisturbed import log_image, undisturbed
from emu2_lit import ranks
from emu2_lit.evaluation import exact_match
from emu2_lit.evaluation.runner import is_sharded
from emu2_lit.samples.encoding import VISUALS, Encoded, encode, prompt, read_picture, read_video
from emu2_lit.samples.sample import BadSample, Sample


@dataclass(frozen=True)
class Answer:
    """A validation question, the reference and what the model said."""

    id: str
    question: str
    answer: str
    prediction: str
    correct: bool


class GeneratedAnswers(Callback):
    """Greedy answers to validation questions, compared with the references by exact match.

    Logs `val/exact_match` at every validation and `val/exact_match_base`, measured before the first step. Writes
    `answers.jsonl` (the latest answers) and `samples/step=0000100.png` under the run folder, and gives the sheet of
    pictures to the loggers that take one. Draws no random number and leaves modes as they were, so training goes on
    as if nothing had happened. Ranks share the samples.

    Args:
        run_dir: default the trainer's `default_root_dir`.
        limit: questions answered, spread evenly over the validation samples.
        max_new_tokens: longest answer.
        batch_size: questions answered at once.
        grid: questions drawn.
    """

    def __init__(
        self,
        run_dir: str | Path | None = None,
        limit: int = 64,
        max_new_tokens: int = 16,
        batch_size: int = 32,
        grid: int = 16,
    ):
        self.run_dir = run_dir
        self.limit, self.max_new_tokens, self.batch_size, self.grid = limit, max_new_tokens, batch_size, grid
        self.answers: list[Answer] = []
        self.base: float | None = None
        self._questions: list[tuple[Sample, str]] = []

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._questions = []  # the data may be other data than in the last fit

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure the untuned model; a resumed run knows the figure from its checkpoint."""
        if trainer.global_step == 0:
            self.base = self._run(trainer, pl_module)
            for logger in trainer.loggers if self.base is not None else ():
                logger.log_metrics({"val/exact_match_base": self.base}, step=0)
        if self.base is not None:
            trainer.callback_metrics["val/exact_match_base"] = torch.tensor(self.base)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.sanity_checking:
            return
        score = self._run(trainer, pl_module)
        if score is not None:  # the same on all ranks
            self.log("val/exact_match", score, prog_bar=True, sync_dist=True)
        if self.base is not None:
            self.log("val/exact_match_base", self.base, sync_dist=True)

    def _run(self, trainer: Trainer, pl_module: LightningModule) -> float | None:
        """Answer, write, and return the share of exact matches; None without validation questions."""
        self._questions = self._questions or _questions(trainer.datamodule.validation_samples(), self.limit)
        if not self._questions:
            return None
        answer = partial(
            generate_answers, pl_module.model, pl_module.processor,
            max_new_tokens=self.max_new_tokens, device=pl_module.device,
        )  # fmt: skip
        with undisturbed(pl_module), trainer.precision_plugin.forward_context():
            shares = (0, 1) if is_sharded(pl_module.model) else ranks.place()  # ranks of a sharded model step together
            generated = _shared([sample for sample, _ in self._questions], answer, self.batch_size, *shares)
        self.answers = [
            Answer(sample.id, question_text(sample), reference, text, exact_match(text, reference))
            for (sample, reference), text in zip(self._questions, generated, strict=True)
        ]
        if trainer.is_global_zero and not trainer.fast_dev_run:
            self._write(trainer)
        return sum(answer.correct for answer in self.answers) / len(self.answers)

    def _write(self, trainer: Trainer) -> None:
        folder = Path(self.run_dir or trainer.default_root_dir)
        write_text(folder / "answers.jsonl", "".join(json_line(asdict(answer)) for answer in self.answers))
        if self.grid:
            shown = list(zip(self._questions, self.answers, strict=True))[: self.grid]
            sheet = draw_grid(_cell(sample, answer) for (sample, _), answer in shown)
            (folder / "samples").mkdir(parents=True, exist_ok=True)
            sheet.save(folder / "samples" / f"step={trainer.global_step:07d}.png")
            log_image(trainer, "val/answers", sheet)

    def state_dict(self) -> dict[str, Any]:
        return {"base": self.base}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.base = state_dict["base"]


@torch.no_grad()
def generate_answers(
    model: nn.Module, processor: Any, samples: Sequence[Sample], max_new_tokens: int, device: torch.device | str
) -> list[str]:
    """Greedy answers to conversations that end in a question; a picture that cannot be read gives an empty answer.

    Args:
        model: Emu2ForConditionalGeneration, with or without adapters, in evaluation mode.
        processor: an Emu2Processor.
    """
    answers = [""] * len(samples)
    encoded = {place: item for place, sample in enumerate(samples) if (item := _encoded(sample, processor)) is not None}
    if not encoded:
        return answers
    batch = move_data_to_device(_left_padded(list(encoded.values()), processor), device)
    ids = model.generate(**batch, max_new_tokens=max_new_tokens, do_sample=False, num_beams=1)
    for place, text in zip(encoded, processor.batch_decode(ids, skip_special_tokens=True), strict=True):
        answers[place] = text.strip()
    return answers


def question_text(sample: Sample) -> str:
    """The last question of a conversation, as text."""
    asked: list[str] = []
    for part in reversed(sample.parts):
        if part.role == "assistant" or (part.role == "system" and asked):
            break
        if part.kind == "text":
            asked.append(part.value.strip())
    return " ".join(text for text in reversed(asked) if text)


def _questions(samples: Sequence[Sample], limit: int) -> list[tuple[Sample, str]]:
    """At most `limit` prompts with their references, evenly spread; samples that end in no answer are left out."""
    questions = []
    count = min(limit, len(samples))
    for sample in (samples[place * len(samples) // count] for place in range(count)):
        try:
            questions.append(prompt(sample))
        except BadSample:
            continue
    return questions


def _shared(
    samples: Sequence[Sample], answer: Callable[[Sequence[Sample]], list[str]], batch_size: int, rank: int, world: int
) -> list[str]:
    """`answer` over all samples; each rank does its part, in equally many batches, and learns of all."""
    mine = [(rank + turn * world) % len(samples) for turn in range(-(-len(samples) // world))]
    texts: dict[int, str] = {}
    for start in range(0, len(mine), batch_size):
        places = mine[start : start + batch_size]
        texts.update(zip(places, answer([samples[place] for place in places]), strict=True))
    parts = [texts]
    if world > 1:
        parts = [{} for _ in range(world)]
        torch.distributed.all_gather_object(parts, texts)
    merged = {place: text for part in parts for place, text in part.items()}
    return [merged[place] for place in range(len(samples))]


def _encoded(sample: Sample, processor: Any) -> Encoded | None:
    try:
        return encode(sample, processor, for_generation=True)
    except BadSample:  # the validation batches have told of it already
        return None


def _left_padded(items: list[Encoded], processor: Any) -> dict[str, Tensor]:
    batch = dict(processor.pad([item.input_ids.tolist() for item in items], side="left"))
    for name in VISUALS:
        pixels = [getattr(item, name) for item in items if getattr(item, name) is not None]
        if pixels:
            batch[name] = torch.cat(pixels)
    return batch


def _cell(sample: Sample, answer: Answer) -> Cell:
    return Cell(_first_picture(sample), answer.question, answer.answer, answer.prediction, answer.correct)


def _first_picture(sample: Sample) -> Image.Image | None:
    try:
        for part in sample.parts:
            if part.kind == "image":
                return read_picture(part.value)
            if part.kind == "video":
                return read_picture(read_video(part.value)[0])
    except BadSample:
        return None
    return None
