"""`fit`: a recipe from its first step, or from where it stands, to what can be used."""

import errno
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning import Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_info, rank_zero_only

from callbacks import DataLedger, FaultCallback, GracefulStop, InContextEvaluation, Rehearsal, Throughput
from emu2_lit import recipe as recipes
from emu2_lit.errors import UserError
from emu2_lit.job import BASES, Job, clear_triggers
from emu2_lit.model.lora import save_adapter
from emu2_lit.modules import DrawingTuning, TuningModule
from emu2_lit.recipe.schema import Recipe
from emu2_lit.run.assemble import build_datamodule, build_module, build_origin, build_trainer, cluster_plugins, draws
from emu2_lit.run.farewell import farewell
from emu2_lit.run.memory import memory_advice
from emu2_lit.run.plan import fullest_batch, plannable
from emu2_lit.run.resume import about_run, begin, check_changes, find_checkpoint, stay_with_own
from emu2_lit.run.room import check_memory
from emu2_lit.run.use import measure_use
from emu2_lit.signals import early
from emu2_lit.strategies import started_by_srun
from emu2_lit.strategies.shard import gathered_state

# Figures that the summary keeps
_FINAL = ("val/", "in_context/", "in_context_base/", "generation/", "generation_base/", "train/loss")


@dataclass
class RunResult:
    """How a run ended: `finished`, `already finished`, `interrupted` (after a save) or `dry run`."""

    status: str
    directory: Path
    summary: dict[str, Any]

    def describe(self) -> str:
        """What the user is told."""
        if self.status == "interrupted":
            return f"Stopped after a save at step {self.summary['steps']}; the same command goes on from there"
        if self.status == "dry run":
            return f"Dry run: {self.summary['steps']} steps went through; nothing was saved"
        told = farewell(self.directory, self.summary)
        if self.status == "already finished":
            told = f"This run has already finished (to train anew: another run.dir, or delete {self.directory})\n{told}"
        return told


def fit(recipe: Recipe) -> RunResult:
    """Train as the recipe says; the same call goes on with a run that was stopped.

    Raises:
        UserError: something in the recipe, the data or the weights is wrong.
    """
    folder = Path(recipe.run.dir)
    cluster_plugins(recipe)  # refuses a job of another shape before anything is loaded
    done = _finished(recipe, folder)
    if done is not None:
        return RunResult("already finished", folder, done)
    job = Job.here()
    if job is None:
        clear_triggers(folder)
    else:
        stay_with_own(job, recipe, folder)
    about, checkpoint = about_run(recipe), find_checkpoint(recipe, folder)  # before weights are put for a recipe
    if checkpoint is not None:
        check_changes(checkpoint, about["recipe"], recipe.resume.allow)
    for key, place in BASES.items():
        if recipes.is_recipe(getattr(recipe.model, key) or ""):
            base = fit_base(recipe, folder / place, key)
            if base.status == "interrupted":
                return RunResult("interrupted", folder, base.summary)
    early.while_loading()
    if job is not None:
        with _failing_disk(folder):
            begin(job, folder, recipe.slurm.max_restarts_without_progress)
    origin = build_origin(recipe)
    datamodule = build_datamodule(recipe, origin)
    module = build_module(recipe, origin)
    trainer = build_trainer(recipe, samples=datamodule.pass_length, about=about)
    if recipe.trainer.check_memory and not draws(recipe):
        check_memory(recipe, trainer)
    measure_use(recipe, trainer)
    if plannable(recipe):
        trainer.callbacks.append(Rehearsal(partial(fullest_batch, recipe, trainer.world_size), recipe.trainer.rehearse))
    if not recipe.trainer.fast_dev_run:
        save_recipe(recipe, folder)
    with _interrupts(), _failing_disk(folder), memory_advice(recipe, trainer):
        trainer.fit(module, datamodule, ckpt_path=checkpoint, weights_only=True)
    if recipe.trainer.fast_dev_run:
        return RunResult("dry run", folder, {"steps": trainer.global_step})
    stop = _graceful_stop(trainer)
    if stop.stopped:
        told = {"reason": stop.reason, "final": stop.final, "seconds": stop.seconds}
        return RunResult("interrupted", folder, {"steps": trainer.global_step} | told)
    early.nothing_left_to_save(stop.received)
    if module.validated_at != trainer.global_step and datamodule.validation_settings:
        with _interrupts(), _failing_disk(folder), memory_advice(recipe, trainer):
            trainer.validate(module, datamodule, verbose=False)
    with _failing_disk(folder):
        return RunResult("finished", folder, _hand_over(trainer, module, recipe, origin.name, folder))


@contextmanager
def _interrupts() -> Iterator[None]:
    """Ctrl-C where nothing can be saved (before the first step, or pressed twice) stays a KeyboardInterrupt: Lightning
    makes an exit with status 1 of it."""
    try:
        yield
    except SystemExit as exit:
        if isinstance(exit.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from exit
        raise


@contextmanager
def _failing_disk(folder: Path) -> Iterator[None]:
    """A disk that is full or cannot be written to any more is the user's to mend: UserError."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
            raise
        raise UserError(
            f"{folder}: cannot be written to ({error.strerror}; {shutil.disk_usage(folder).free:,} bytes are free). "
            "The checkpoints stand: make room, and the same command goes on from the last one"
        ) from error


def _finished(recipe: Recipe, folder: Path) -> dict[str, Any] | None:
    """The summary of a run that needs nothing more, if it does not."""
    if recipe.resume.checkpoint == "never" or recipe.trainer.fast_dev_run:
        return None
    try:
        summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
        asked = recipe.trainer.max_steps
        done = asked is None or summary["steps"] >= asked or "stopped_because" in summary
    except (OSError, ValueError, KeyError, TypeError):  # none yet, or one that nobody can use: it is written anew
        return None
    return summary if done else None


def fit_base(recipe: Recipe, folder: Path, key: str = "weights") -> RunResult:
    """Run the recipe that a key of the model section names, and point the key to what it leaves."""
    base = recipes.load(getattr(recipe.model, key), [f"run.dir={folder}", f"data.folder={recipe.data.folder}"])
    base.slurm = recipe.slurm
    if started_by_srun():  # as many processes as there are
        base.trainer.num_nodes, base.trainer.devices = recipe.trainer.num_nodes, recipe.trainer.devices
    rank_zero_info(f"{recipe.name} starts from the recipe {base.name}, which runs first (in {folder})")
    result = fit(base)
    setattr(recipe.model, key, str(folder))
    return result


def _graceful_stop(trainer: Trainer) -> GracefulStop:
    return next(callback for callback in trainer.callbacks if isinstance(callback, GracefulStop))


@rank_zero_only
def save_recipe(recipe: Recipe, folder: Path) -> None:
    """Write recipe.yaml. Raises UserError when the folder cannot be written to."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        recipes.save(recipe, folder / "recipe.yaml")
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"run.dir={str(folder)!r}: cannot be written to ({reason})") from error


def _hand_over(trainer: Trainer, module: TuningModule, recipe: Recipe, base: str | None, folder: Path) -> dict:
    """Write what to use and the figures of the run; the figures are returned."""
    target = folder / ("adapter" if module.lora else "model")
    summary = _summary(trainer, module) | {"result": str(target)}
    drawing, dtype = isinstance(module, DrawingTuning), getattr(torch, recipe.model.dtype)
    state = None if drawing else gathered_state(module.model, bool(module.lora), None if module.lora else dtype)
    if trainer.is_global_zero:
        save_result(module, recipe, base, target, state)
        temporary = folder / ".summary.json.partial"
        temporary.write_text(json.dumps(summary, indent=1, sort_keys=True) + "\n")
        temporary.replace(folder / "summary.json")
    return trainer.strategy.broadcast(summary)  # also waits until everything is written


def save_result(
    module: TuningModule, recipe: Recipe, base: str | None, target: Path, state: dict[str, torch.Tensor] | None = None
) -> None:
    """The adapter as a PEFT folder, or the whole model as a Hugging Face folder, the processor beside it; or the visual
    decoder as a folder of Emu2-Gen has it.

    Args:
        state: the model's weights where it is sharded, see `gathered_state`.
    """
    if isinstance(module, DrawingTuning):
        module.save_decoder(target, getattr(torch, recipe.model.dtype))
    elif module.lora:
        save_adapter(module.model, target, base, state)
        module.processor.save_pretrained(target)
    else:
        if not module.tower:
            state = (state or module.model.state_dict()) | module.build_tower().state_dict()
        dtype = getattr(torch, recipe.model.dtype)
        module.model.save_pretrained(target, processor=module.processor, dtype=dtype, state_dict=state)


def _summary(trainer: Trainer, module: TuningModule) -> dict[str, Any]:
    """Final figures, under the names in which they were logged."""
    sizes = module.parameter_parts()
    logged = trainer.callback_metrics.items()
    figures: dict[str, Any] = {name: float(value) for name, value in logged if name.startswith(_FINAL)}
    for callback in trainer.callbacks:
        if isinstance(callback, InContextEvaluation) and callback.stopped:
            figures["stopped_because"] = callback.stopped
        if isinstance(callback, Throughput | FaultCallback):
            figures.update(callback.totals())
        elif isinstance(callback, DataLedger):
            figures["skipped_samples"] = callback.skipped_samples()
    figures.update(
        steps=trainer.global_step,
        trainable_parameters=sum(row["parameters"] for row in sizes if row["mode"] != "frozen"),
        total_parameters=sum(row["parameters"] for row in sizes),
    )
    return figures
