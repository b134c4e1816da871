"""Few-shot scores while it trains: does tuning keep what Emu2 is for?"""

import json
import math
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_info, rank_zero_warn
from peft import PeftModel

from callbacks import in_context_pictures as draw
from callbacks.in_context_base import (
    BaseFile,
    Scores,
    benchmark_key,
    combined,
    tower_is_frozen,
    untouched,
    weights_key,
)
from callbacks.records import StepRecords, write_text
from callbacks.steps import StepCallback
from callbacks.undisturbed import log_image, undisturbed
from emu2_lit.errors import UserError
from emu2_lit.evaluation.benchmark import Benchmark, Prediction
from emu2_lit.evaluation.demonstrations import Features, How, select
from emu2_lit.evaluation.pictures import Pictures
from emu2_lit.evaluation.prompts import shots_name
from emu2_lit.evaluation.question import Question
from emu2_lit.evaluation.runner import is_sharded, predict


class InContextEvaluation(StepCallback):
    """Scores benchmarks with a growing number of demonstrations, at every validation, beside the untouched model.

    Logs `in_context/{benchmark}/shots_{k}` and, measured once, `in_context_base/...`: with adapters, the same model
    without them; in full tuning, the model before its first step. Both see the same demonstrations. Under the run
    folder it leaves `in_context/scores.jsonl`, `best.json`, curves over shots and sheets of episodes, which loggers
    get too. Draws no random number and leaves modes as they were. Ranks share the queries.

    Args:
        benchmarks: see `evaluation/benchmark.py`.
        shots: numbers of demonstrations (per label, in N-way tasks); one that does not fit the model is left out. With
            zero_shot="text", 0 is Flamingo's, and called `shots_0_text`.
        run_dir: default the trainer's `default_root_dir`.
        limit: queries of each benchmark, spread evenly; None: all.
        how, dialect, zero_shot, chat, n_query, num_beams, length_penalty, batch_size, seed: see `predict`; `chat` is
            by default what the tokenizer is.
        stop_below: end the run, after one more step, when a benchmark's score with most shots falls by more than this
            below the untouched model's.
        grid: episodes drawn per benchmark.
        base_folder: where scores of untouched models are kept; runs that share it measure once.

    Raises:
        UserError: two benchmarks of one name.

    Attributes:
        base, scores: "benchmark/shots_k" -> main score, the latest; None where so many shots do not fit.
        best: name -> {"score", "step"}.
        stopped: why the run was ended, if it was.
    """

    def __init__(
        self,
        benchmarks: Sequence[Benchmark],
        shots: Sequence[int] = (0, 1, 2, 4),
        *,
        run_dir: str | Path | None = None,
        limit: int | None = 64,
        how: How = "random",
        dialect: str = "emu2",
        zero_shot: str = "true",
        chat: bool | None = None,
        n_query: int | None = None,
        num_beams: int = 5,
        length_penalty: float = -1.0,
        batch_size: int = 8,
        seed: int = 0,
        stop_below: float | None = None,
        grid: int = 4,
        base_folder: str | Path | None = None,
    ):
        self.benchmarks, self.shots, self.run_dir, self.limit = list(benchmarks), sorted(shots), run_dir, limit
        if len({benchmark.name for benchmark in self.benchmarks}) < len(self.benchmarks):
            raise UserError("in_context: two benchmarks have the same name")
        self.settings: dict[str, Any] = dict(
            how=how, dialect=dialect, zero_shot=zero_shot, n_query=n_query, num_beams=num_beams,
            length_penalty=length_penalty, seed=seed,
        )  # fmt: skip
        self.chat, self.batch_size, self.stop_below, self.grid = chat, batch_size, stop_below, grid
        self.base_folder = base_folder
        self.base: Scores | None = None
        self.scores: Scores = {}
        self.best: dict[str, dict[str, float]] = {}
        self.stopped: str | None = None
        self._base_key = ""
        self._drawn: dict[str, tuple[int, list[Prediction]]] = {}
        self._forget()

    def _forget(self) -> None:
        """What belongs to one fit: the model may be another in the next."""
        self._pictures: Pictures | None = None
        self._features: dict[str, Features] = {}
        self._limits: list | None = None

    # -- when ------------------------------------------------------------------------------------------------
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._forget()
        self.stopped = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure the untouched model; a resumed run knows the figures from its checkpoint."""
        super().on_train_start(trainer, pl_module)
        if self._writes(trainer):
            self._records(trainer).rewind(trainer.global_step)
        key = self._asked_key()
        if key != self._base_key:
            self.base, self.best, self._base_key = None, {}, key
        if self.base is None:
            self._find_base(trainer, pl_module)
            for logger in trainer.loggers if self.base else ():
                logger.log_metrics(_named("in_context_base", self.base), step=trainer.global_step)
        for name, score in _named("in_context_base", self.base).items():
            trainer.callback_metrics[name] = torch.tensor(score)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.sanity_checking:
            return
        self.scores = self._measure(trainer, pl_module)
        for name, score in (_named("in_context", self.scores) | _named("in_context_base", self.base)).items():
            self.log(name, score, sync_dist=True)  # the same on all ranks
        for name, score in self.scores.items():
            if score is not None and score > self.best.get(name, {"score": -math.inf})["score"]:
                self.best[name] = {"score": score, "step": trainer.global_step}
        self._check_drop()
        if self._writes(trainer):
            self._write(trainer)

    def on_step_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """End a run that has lost too much, at the end of a step: there checkpoints are written."""
        if self.stopped and trainer.global_step < trainer.max_steps:
            trainer.should_stop = True
            self._limits = [trainer.limit_val_batches]
            trainer.limit_val_batches = 0  # it has just been validated

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._limits:
            (trainer.limit_val_batches,) = self._limits

    def _check_drop(self) -> None:
        for benchmark in self.benchmarks if self.stop_below is not None and self.base else ():
            names = [self._name(benchmark, shots) for shots in self.shots]
            fitting = [name for name in names if self.scores.get(name) is not None]
            name = fitting[-1] if fitting else ""
            base = self.base.get(name)
            if base is not None and self.scores[name] < base - self.stop_below:
                fall = f"{name} fell to {self.scores[name]:.4g}"
                self.stopped = f"{fall}, more than {self.stop_below:g} below the untouched model's {base:.4g}"
                rank_zero_warn(f"{self.stopped}: stopping. Lower optimizer.lr, or train for fewer steps")

    # -- what ------------------------------------------------------------------------------------------------
    def _find_base(self, trainer: Trainer, pl_module: LightningModule) -> None:
        model = pl_module.model
        if trainer.global_step and not isinstance(model, PeftModel):
            rank_zero_warn("The untouched model's in-context scores cannot be had: full tuning is already under way")
            return
        folder = Path(self.base_folder) if self.base_folder else self._folder(trainer)
        file = None if is_sharded(model) else BaseFile(folder, combined(self._base_key, weights_key(model)))
        self.base = trainer.strategy.broadcast(file.read() if file and trainer.is_global_zero else None)
        if self.base is None:
            self.base = self._measure(trainer, pl_module, base=True)
            if file and self._writes(trainer):
                file.write(self.base)

    def _measure(self, trainer: Trainer, pl_module: LightningModule, base: bool = False) -> Scores:
        model, processor = pl_module.model, pl_module.processor
        chat = processor.tokenizer.chat if self.chat is None else self.chat
        scores: Scores = {}
        with undisturbed(pl_module), trainer.precision_plugin.forward_context():
            self._prepare(model, processor)
            with untouched(model) if base else nullcontext():
                pictures = self._pictures or Pictures(model, processor, self.settings["n_query"])
                for benchmark in self.benchmarks:
                    queries = self._queries(benchmark)
                    for shots in self.shots:
                        predictions = predict(
                            model, processor, benchmark, shots, queries=queries, pictures=pictures, chat=chat,
                            features=self._features.get(benchmark.name), batch_size=self.batch_size, **self.settings,
                        )  # fmt: skip
                        name = self._name(benchmark, shots)
                        scores[name] = _main_score(benchmark, queries, predictions)
                        if predictions is None and base:
                            rank_zero_info(f"{name}: prompts of so many shots do not fit the model, left out")
                        elif predictions is not None:
                            self._drawn[benchmark.name] = shots, predictions
        return scores

    def _prepare(self, model: Any, processor: Any) -> None:
        """Once a fit: features of pictures where they stay as they are, and what RICES compares."""
        frozen = tower_is_frozen(model)
        if frozen and self._pictures is None:
            self._pictures = Pictures(model, processor, self.settings["n_query"])
        if self.settings["how"] != "rices" or self._features:
            return
        if not frozen and not isinstance(model, PeftModel):
            raise UserError("in_context: demonstrations by similarity (rices) need a frozen tower: take how=random")
        with untouched(model):
            for benchmark in self.benchmarks:
                pictures = self._pictures or Pictures(model, processor, self.settings["n_query"])
                self._features[benchmark.name] = Features(
                    benchmark.support, pictures.features, share=not is_sharded(model)
                )

    def _queries(self, benchmark: Benchmark) -> list[Question]:
        queries = benchmark.queries
        count = len(queries) if self.limit is None else min(self.limit, len(queries))
        return [queries[place * len(queries) // count] for place in range(count)]

    def _name(self, benchmark: Benchmark, shots: int) -> str:
        return f"{benchmark.name}/shots_{shots_name(shots, self.settings['zero_shot'])}"

    def _asked_key(self) -> str:
        settings = self.settings | {"shots": self.shots, "chat": self.chat}
        return combined(*(benchmark_key(one, self._queries(one), settings) for one in self.benchmarks))

    # -- what stays ------------------------------------------------------------------------------------------
    def _write(self, trainer: Trainer) -> None:
        step, folder = trainer.global_step, self._folder(trainer)
        self._records(trainer).append([{"step": step, "base": self.base, "tuned": self.scores}])
        write_text(folder / "best.json", json.dumps(self.best, indent=1) + "\n")
        sheets = {"curves": draw.curves({"base": self.base, "tuned": self.scores}, f"after {step} steps")}
        for benchmark in self.benchmarks if self.grid else ():
            if benchmark.name in self._drawn:
                sheets[f"episodes/{benchmark.name}"] = draw.episodes(benchmark, self._episodes(benchmark))
        for name, sheet in sheets.items():
            path = folder / name / f"step={step:07d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            sheet.save(path)
            log_image(trainer, f"in_context/{name}", sheet)

    def _episodes(self, benchmark: Benchmark) -> list[draw.Episode]:
        shots, predictions = self._drawn[benchmark.name]
        how, seed, features = self.settings["how"], self.settings["seed"], self._features.get(benchmark.name)
        return [
            (question, select(question, benchmark.support, shots, how, seed, features), prediction)
            for question, prediction in zip(self._queries(benchmark)[: self.grid], predictions, strict=False)
        ]

    def _folder(self, trainer: Trainer) -> Path:
        return Path(self.run_dir or trainer.default_root_dir) / "in_context"

    def _records(self, trainer: Trainer) -> StepRecords:
        return StepRecords(self._folder(trainer) / "scores.jsonl")

    def _writes(self, trainer: Trainer) -> bool:
        return trainer.is_global_zero and not trainer.fast_dev_run

    def state_dict(self) -> dict[str, Any]:
        return {"base": self.base, "best": self.best, "key": self._base_key}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.base, self.best, self._base_key = state_dict["base"], state_dict["best"], state_dict["key"]


def _named(prefix: str, scores: Scores | None) -> dict[str, float]:
    return {f"{prefix}/{name}": score for name, score in (scores or {}).items() if score is not None}


def _main_score(benchmark: Benchmark, queries: list[Question], predictions: list[Prediction] | None) -> float | None:
    if predictions is None:
        return None
    score = float(benchmark.score(queries, predictions)[benchmark.metric])
    return score if math.isfinite(score) else None
