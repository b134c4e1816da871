"""From a recipe to Lightning's objects: module, datamodule, callbacks, trainer."""

import math
from dataclasses import replace
from datetime import timedelta
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, Trainer
from lightning.fabric.plugins.environments import ClusterEnvironment
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger

import callbacks as watch
from datamodules.chat import ChatDataModule
from datamodules.digits import prepare as prepare_digits
from datamodules.drawings import prepare as prepare_drawings
from datamodules.episodes import prepare as prepare_episodes
from datamodules.types import typed_split
from emu2_lit.errors import UserError
from emu2_lit.evaluation.benchmarks import open_benchmark
from emu2_lit.evaluation.drawing_benchmark import DrawingBenchmark
from emu2_lit.job import Job
from emu2_lit.model.box_picture import box_picture
from emu2_lit.modules import OBJECTIVES, DrawingTuning, TuningModule
from emu2_lit.recipe.overrides import covers
from emu2_lit.recipe.schema import DataSection, EvaluationSection, PictureSection, PromptPartSection, Recipe
from emu2_lit.recipe.shares import data_shares
from emu2_lit.run.decoder import decoder_config, find_decoder, open_decoder
from emu2_lit.run.features import open_features
from emu2_lit.run.origin import Origin, resolve
from emu2_lit.strategies import AtomicCheckpointIO, check_devices, cluster_environment
from emu2_lit.strategies.choose import build_strategy

_ORDER_KEYS = {  # what the data module's order depends on, and the recipe's key
    "seed": "data.seed", "types": "data.types", "fingerprints": "data.sources", "weights": "data.sources",
    "packing": "data.packing",
}  # fmt: skip
_PREPARED = {"digits": prepare_digits, "episodes": prepare_episodes, "drawings": prepare_drawings}


def build_origin(recipe: Recipe) -> Origin:
    """Weights, configuration and processor of a recipe."""
    origin = resolve(recipe.model, roles=OBJECTIVES[recipe.tuning.objective].needs_role_tokens)
    if recipe.data.features:
        origin.processor.features = open_features(recipe, origin)
    return origin


def build_module(recipe: Recipe, origin: Origin) -> TuningModule:
    """The LightningModule of the recipe's objective; its model is built when the trainer asks for it."""
    tuning = recipe.tuning
    return OBJECTIVES[tuning.objective](
        origin.config if origin.source is None else origin.source,
        origin.processor,
        config=origin.config,
        merged_adapters=origin.merged,
        adapter=recipe.model.adapter,
        lora=tuning.lora if tuning.method == "lora" else None,
        frozen=tuning.frozen,
        train_new_tokens=tuning.train_new_tokens,
        activation_checkpointing=tuning.activation_checkpointing,
        optimizer=recipe.optimizer,
        dtype=getattr(torch, recipe.model.dtype),
        quantization=recipe.model.quantization,
        compiled=recipe.trainer.compile,
        tower=recipe.data.features is None,
        seed=recipe.run.seed,
        **_of_objective(recipe),
    )


_OWN_KEYS = {  # of the tuning section, that only one objective takes
    "unified": ("visual_loss_weight", "gradient_norm_interval"),
    "decoder": ("noise_offset", "condition_drop", "new_conditions"),
    "autoencoder": ("kl_weight",),
}


def draws(recipe: Recipe) -> bool:
    """Whether it trains the visual decoder."""
    return issubclass(OBJECTIVES[recipe.tuning.objective], DrawingTuning)


def _of_objective(recipe: Recipe) -> dict[str, Any]:
    """The arguments that only one objective takes."""
    own = {key: getattr(recipe.tuning, key) for key in _OWN_KEYS.get(recipe.tuning.objective, ())}
    return own | ({"decoder": find_decoder(recipe.model.decoder)} if draws(recipe) else {})


def _pictures(recipe: Recipe) -> PictureSection | None:
    if not draws(recipe):
        return None
    wanted, own = recipe.data.pictures, decoder_config(recipe.model.decoder)
    if wanted.size and wanted.size % own.vae_scale:
        raise UserError(f"data.pictures.size={wanted.size}: the decoder draws in multiples of {own.vae_scale} pixels")
    return replace(wanted, size=wanted.size or own.image_size)


def build_datamodule(recipe: Recipe, origin: Origin) -> ChatDataModule:
    """The samples of a recipe; data sets that the kit makes itself are made here."""
    data, positions = recipe.data, origin.config.text_config.max_position_embeddings
    if data.max_length > positions:
        raise UserError(f"data.max_length={data.max_length}: the model has {positions} positions; lower it")
    if data.prepare:
        _PREPARED[data.prepare](Path(data.folder) / data.prepare)
    return ChatDataModule(
        sources=data.sources,
        validation=data.validation,
        processor=origin.processor,
        global_batch_size=data.global_batch_size,
        micro_batch_size=data.micro_batch_size,
        max_length=data.max_length,
        seed=data.seed,
        workers=data.workers,
        validation_limit=data.validation_limit,
        bad_budget=data.bad_budget,
        types=data.types,
        mixing=data.mixing,
        packing=data.packing,
        learn_pictures=recipe.tuning.objective == "unified",
        generation=data.generation if recipe.tuning.objective == "generation" else None,
        pictures=_pictures(recipe),
        digests=recipe.callbacks.batch_digests,
        may_change=[name for name, key in _ORDER_KEYS.items() if covers(recipe.resume.allow, key)],
    )


def build_callbacks(recipe: Recipe, about: dict[str, Any] | None = None) -> list[Callback]:
    """Everything that watches the run; `about` is what checkpoints tell about it."""
    folder, wanted = Path(recipe.run.dir), recipe.callbacks
    built: list[Callback] = [watch.GracefulStop(folder=folder), watch.WhatTrains()]
    if recipe.trainer.enable_progress_bar:
        built.append(watch.progress())
    faults = None if recipe.trainer.fast_dev_run else folder / "faults.jsonl"
    built.append(watch.NonFiniteGuard(wanted.nonfinite_limit, faults))
    if wanted.spike_deviations is not None:
        built.append(watch.LossSpikes(wanted.spike_deviations, faults))
    if wanted.stuck_after:
        built.append(watch.StuckWatch(wanted.stuck_after))
    if wanted.gradient_check_steps:
        built.append(watch.GradientCheck(steps=wanted.gradient_check_steps))
    if recipe.trainer.fast_dev_run:
        return built
    job = Job.here()
    restarts, attempt = (job.restarts, job.attempt) if job else (0, None)
    built.append(watch.StatusFile(folder / "status.json", restarts=restarts, job=attempt))
    built.append(watch.DataLedger(folder / "data_ledger.jsonl"))
    if wanted.batch_digests:
        built.append(watch.BatchDigests(folder / "batches"))
    if wanted.throughput:
        built.append(watch.Throughput())
    if wanted.answers:
        built.append(watch.GeneratedAnswers(run_dir=folder, **vars(wanted.answers)))
    built += _measuring(recipe, folder)
    built.append(
        watch.StepCheckpoint(
            folder / "checkpoints", wanted.checkpoint_every_n_steps, wanted.keep_checkpoints, wanted.keep_best, about
        )
    )
    if wanted.report:
        built.append(watch.Report(folder))
    built.append(watch.CatchUpValidation())
    return built


def _measuring(recipe: Recipe, folder: Path) -> list[Callback]:
    """Benchmarks that ask, benchmarks that draw, and drawings to look at."""
    wanted, drawings = recipe.evaluation, recipe.callbacks.drawings
    opened = open_benchmarks(recipe)
    drawn = [one for one in opened if isinstance(one, DrawingBenchmark)]
    asked = [one for one in opened if not isinstance(one, DrawingBenchmark)]
    if drawn and not recipe.model.decoder:
        raise UserError(f"model.decoder: say what draws for the benchmark {drawn[0].name}")
    # Opened where it is first needed, once for both
    decoder = cache(partial(open_decoder, recipe.model.decoder, getattr(torch, recipe.model.dtype)))
    built: list[Callback] = [_in_context(wanted, asked, folder)] if asked else []
    if drawn:
        built.append(
            watch.GenerationEvaluation(drawn, decoder, recipe.drawing, wanted.encoders, wanted.grid, run_dir=folder)
        )
    if drawings:
        prompts = [[_prompt_part(part) for part in prompt.parts] for prompt in drawings.prompts]
        built.append(
            watch.GenerationSamples(prompts, decoder, recipe.drawing, drawings.every_n_steps, run_dir=folder)
        )  # fmt: skip
    return built


def open_benchmarks(recipe: Recipe) -> list[Any]:
    """Those of the recipe. Raises UserError where they draw, which needs the tower, and the run leaves it out."""
    opened = [open_benchmark(one.name, one.path, one.split, one.limit) for one in recipe.evaluation.benchmarks]
    if recipe.data.features and any(isinstance(one, DrawingBenchmark) for one in opened):
        raise UserError("evaluation.benchmarks: drawing needs the tower, which data.features leaves out; remove one")
    return opened


def _prompt_part(part: PromptPartSection) -> Any:
    if part.text is not None:
        return part.text
    return Path(part.image).expanduser() if part.image is not None else box_picture(part.box)


def _in_context(wanted: EvaluationSection, benchmarks: list, folder: Path) -> Callback:
    return watch.InContextEvaluation(
        benchmarks, wanted.shots, run_dir=folder, limit=None, how=wanted.demonstrations, dialect=wanted.dialect,
        zero_shot=wanted.zero_shot, chat=wanted.chat, n_query=wanted.n_query, num_beams=wanted.num_beams,
        length_penalty=wanted.length_penalty, batch_size=wanted.batch_size, seed=wanted.seed,
        stop_below=wanted.stop_below, grid=wanted.grid,
    )  # fmt: skip


def build_trainer(recipe: Recipe, samples: int | None = None, about: dict[str, Any] | None = None) -> Trainer:
    """Lightning's Trainer with every promise of the kit.

    Args:
        samples: in one pass over the training data, or packed rows; needed for `trainer.max_epochs`.
        about: what every checkpoint tells about the run, see StepCheckpoint.
    Raises:
        UserError: the global batch does not divide into micro-batches over the devices.
    """
    settings = recipe.trainer
    trainer = _make_trainer(
        default_root_dir=recipe.run.dir,
        accelerator=settings.accelerator,
        devices=settings.devices,
        num_nodes=settings.num_nodes,
        strategy=build_strategy(settings.strategy, settings),
        precision=settings.precision,
        max_steps=_max_steps(recipe, samples),
        max_epochs=-1,  # the loader is one stream; steps count
        gradient_clip_val=settings.gradient_clip_val,
        limit_val_batches=settings.limit_val_batches,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        log_every_n_steps=settings.log_every_n_steps,
        profiler=settings.profiler,
        fast_dev_run=settings.fast_dev_run,
        deterministic=settings.deterministic,
        enable_progress_bar=False,  # one of ours is among the callbacks
        enable_model_summary=False,
        use_distributed_sampler=False,
        logger=_loggers(recipe) if not settings.fast_dev_run else False,
        callbacks=build_callbacks(recipe, about),
        plugins=[AtomicCheckpointIO(), *cluster_plugins(recipe)],
    )
    check_devices(trainer.num_devices, trainer.num_nodes)
    if recipe.callbacks.stuck_after and hasattr(trainer.strategy, "_timeout"):  # the watch speaks first, it knows more
        trainer.strategy._timeout = timedelta(seconds=recipe.callbacks.stuck_after + 600)
    passes = _micro_batches(recipe.data, data_shares(settings, trainer.world_size))
    trainer.accumulate_grad_batches = passes
    if settings.fast_dev_run:
        trainer.limit_train_batches = settings.fast_dev_run * passes  # Lightning counts micro-batches
    else:
        trainer.val_check_interval = (settings.val_check_interval or trainer.max_steps) * passes
    return trainer


def _micro_batches(data: DataSection, shares: int) -> int:
    """How many micro-batches a device runs in one optimizer step."""
    if data.types:
        return typed_split(data.types, data.mixing, data.micro_batch_size, shares).accumulation
    passes, rest = divmod(data.global_batch_size, data.micro_batch_size * shares)
    if rest or not passes:
        raise UserError(
            f"data.global_batch_size={data.global_batch_size} is not a multiple of data.micro_batch_size="
            f"{data.micro_batch_size} times {shares} device(s): change one of them"
        )
    return passes


def cluster_plugins(recipe: Recipe) -> list[ClusterEnvironment]:
    """How the ranks find each other under SLURM; else nothing. UserError: it has started others than are wanted."""
    found = cluster_environment(recipe.trainer.devices, recipe.trainer.num_nodes)
    return [found] if found else []


def _make_trainer(**arguments: Any) -> Trainer:
    """Lightning's Trainer; what it refuses (devices that are not there, unknown accelerators) is the user's to mend."""
    try:
        return Trainer(**arguments)
    except (MisconfigurationException, TypeError, ValueError) as error:
        wanted = ", ".join(f"{key}={arguments[key]}" for key in ("accelerator", "devices", "num_nodes", "strategy"))
        raise UserError(f"trainer ({wanted}) cannot be had here: {error}") from error


def _max_steps(recipe: Recipe, samples: int | None) -> int:
    settings = recipe.trainer
    if settings.fast_dev_run:
        return settings.fast_dev_run
    if settings.max_steps:
        return settings.max_steps
    if samples is None:
        raise UserError("trainer.max_epochs needs the training data to be known; set trainer.max_steps")
    return max(1, math.ceil(settings.max_epochs * samples / recipe.data.global_batch_size))


def _loggers(recipe: Recipe) -> list[Logger]:
    folder = Path(recipe.run.dir)
    return [_LOGGERS[name](folder, recipe.name) for name in recipe.run.logger]


def _wandb(folder: Path, name: str) -> Logger:
    try:
        import wandb  # noqa: F401
    except ImportError as error:
        raise UserError("run.logger: wandb is not installed; pip install 'emu2-lit[wandb]'") from error
    from lightning.pytorch.loggers import WandbLogger

    return WandbLogger(project="emu2-lit", name=name, save_dir=folder)


_LOGGERS = {
    "tensorboard": lambda folder, name: TensorBoardLogger(folder, name="tensorboard", version=""),
    "csv": lambda folder, name: CSVLogger(folder, name="csv", version=""),
    "wandb": _wandb,
}
