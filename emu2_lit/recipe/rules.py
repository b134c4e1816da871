"""How the sections of a recipe must agree, and which files it needs."""

from collections.abc import Iterator
from pathlib import Path
from typing import get_args

from emu2_lit.recipe import catalog
from emu2_lit.recipe.changes import unknown_keys
from emu2_lit.recipe.schema import DataSection, GenerationSection, LoraSection, Part, PictureSection, Recipe
from emu2_lit.settings import type_problems

_FSDP = ("fsdp", "hsdp")  # trainer.strategy
WEIGHT_FILES = (".safetensors", ".bin", ".pt", ".pth")


def conflicts(recipe: Recipe) -> list[str]:
    """Everything that does not agree, one message each; empty for a sound recipe."""
    rules = (
        _model_rules, _tuning_rules, _decoder_rules, _data_rules, _packing_rules, _feature_rules, _step_rules,
        _parallel_rules, _drawing_rules, _resume_rules,
    )  # fmt: skip
    return [message for rule in rules for message in rule(recipe)]


def missing_files(recipe: Recipe) -> list[str]:
    """Files that the recipe names and that are not there, one message each.

    What `data.prepare` will make, patterns (tars) and names that may be the hub's are not looked for.
    """
    missing = [(key, path) for key, path in _named_files(recipe) if not Path(path).expanduser().exists()]
    return [f"{key}: no such file or folder: {path}" for key, path in missing]


def _model_rules(recipe: Recipe) -> Iterator[str]:
    model, method = recipe.model, recipe.tuning.method
    if not model.weights and not model.preset:
        yield "model: give model.weights (what to tune) or model.preset (random weights of that size)"
    if model.quantization and method == "full":
        yield f"model.quantization: {model.quantization} weights cannot be tuned in full, only by lora"
    if model.adapter and method == "full":
        yield "model.adapter: to tune in full, merge it first: `emu2-lit export ADAPTER --to hf --out FOLDER`"


def _tuning_rules(recipe: Recipe) -> Iterator[str]:
    tuning = recipe.tuning
    if tuning.method == "full":
        changed = [name for name, value in vars(LoraSection()).items() if getattr(tuning.lora, name) != value]
        if changed:
            yield f"tuning.lora.{changed[0]}: has no effect with tuning.method=full; remove it or use lora"
        if set(tuning.frozen) >= set(get_args(Part)):
            yield "tuning.frozen: every part is frozen, so nothing would train"
    elif not tuning.lora.targets:
        yield "tuning.lora.targets: is empty, so nothing would train"


def _decoder_rules(recipe: Recipe) -> Iterator[str]:
    objective, pictures = recipe.tuning.objective, recipe.data.pictures
    if objective not in ("decoder", "autoencoder"):
        changed = [name for name, value in vars(PictureSection()).items() if getattr(pictures, name) != value]
        yield from (f"data.pictures.{name}: has an effect with tuning.objective=decoder only" for name in changed)
        return
    if not recipe.model.decoder:
        yield f"model.decoder: objective {objective} trains it; give a folder, or a preset such as tiny"
    if recipe.tuning.method == "lora":
        yield f"tuning.method: objective {objective} trains in full; set tuning.method=full"
    if recipe.callbacks.answers:
        yield f"callbacks.answers: objective {objective} has no answers; set callbacks.answers=null"
    if recipe.evaluation.benchmarks:
        yield f"evaluation.benchmarks: objective {objective} has no language model; remove them"
    if recipe.callbacks.drawings:
        yield f"callbacks.drawings: objective {objective} has no language model; set callbacks.drawings=null"
    if recipe.trainer.strategy in _FSDP:
        yield (
            f"trainer.strategy: {recipe.trainer.strategy} divides the language model, which objective {objective} has "
            "none of; take ddp or a stage of deepspeed"
        )
    if recipe.trainer.compile:
        yield f"trainer.compile: objective {objective} has no language model; remove it"
    if objective == "autoencoder" and not recipe.data.validation:
        yield "data.validation: objective autoencoder measures the scale of the latents there; give a source"


def _data_rules(recipe: Recipe) -> Iterator[str]:
    data = recipe.data
    if not data.sources and recipe.evaluation.benchmarks:
        return  # to evaluate only
    if not data.sources:
        yield "data.sources: is empty; give at least one, such as data.sources.0.path=my_chat.json"
    if recipe.tuning.objective != "generation":
        changed = [name for name, value in vars(GenerationSection()).items() if getattr(data.generation, name) != value]
        yield from (f"data.generation.{name}: has an effect with tuning.objective=generation only" for name in changed)
    weighted = [source.weight is not None for source in data.sources]
    if any(weighted) and not all(weighted):
        yield f"data.sources.{weighted.index(False)}.weight: give a weight to all sources or to none"
    elif weighted and all(weighted) and not sum(source.weight for source in data.sources):
        yield "data.sources: all weights are 0"
    if data.types:
        yield from _type_rules(recipe)
    elif any(source.type for source in data.sources):
        yield from type_problems(data.types, data.sources)
    elif data.global_batch_size % data.micro_batch_size:
        yield (
            f"data.global_batch_size: {data.global_batch_size} is not a multiple of"
            f" data.micro_batch_size={data.micro_batch_size}"
        )


def _packing_rules(recipe: Recipe) -> Iterator[str]:
    """What is drawn anew in every epoch has another length each time, so only conversations can be packed."""
    if not recipe.data.packing:
        return
    if recipe.tuning.objective != "chat":
        yield f"data.packing: packs conversations, which objective {recipe.tuning.objective} has none of; remove it"
    if recipe.data.types:
        yield "data.packing: data.types have batch sizes in samples; remove one of them"


def _feature_rules(recipe: Recipe) -> Iterator[str]:
    """What cannot do without the tower; that it must not train is the module's to say."""
    if not recipe.data.features:
        return
    varied = recipe.data.generation
    if recipe.tuning.objective in ("decoder", "autoencoder"):
        yield f"data.features: objective {recipe.tuning.objective} cuts pictures anew; remove data.features"
    new_pictures = not varied.variants and (varied.random_background or varied.random_crop)
    if recipe.tuning.objective == "generation" and new_pictures:
        yield (
            "data.features: backgrounds and crops of subjects are new in every epoch; give data.generation.variants, "
            "such as 4, or set random_background and random_crop to 0"
        )
    if recipe.callbacks.drawings:
        yield "callbacks.drawings: drawing needs the tower, which data.features leaves out; set callbacks.drawings=null"


def _type_rules(recipe: Recipe) -> Iterator[str]:
    data = recipe.data
    if data.global_batch_size != DataSection().global_batch_size:
        yield "data.global_batch_size: has no effect with data.types, each has its own batch_size; remove it"
    if recipe.trainer.max_steps is None:
        yield "trainer.max_steps: give it with data.types, whose sources have no common end"
    yield from type_problems(data.types, data.sources)


def _step_rules(recipe: Recipe) -> Iterator[str]:
    trainer, optimizer = recipe.trainer, recipe.optimizer
    if not recipe.data.sources and recipe.evaluation.benchmarks:
        return
    if (trainer.max_steps is None) == (trainer.max_epochs is None):
        given = "neither is" if trainer.max_steps is None else "both are"
        yield f"trainer: give one of max_steps and max_epochs (and null for the other); {given} given"
    elif trainer.max_epochs == 0:
        yield "trainer.max_epochs: 0 passes train nothing"
    if len(optimizer.betas) != 2 or max(optimizer.betas) >= 1:
        yield f"optimizer.betas: expected two numbers below 1, got {optimizer.betas}"
    if optimizer.name == "adamw_8bit" and optimizer.fused is not None:
        yield "optimizer.fused: adamw_8bit has a kernel of its own; leave it null"


def _parallel_rules(recipe: Recipe) -> Iterator[str]:
    trainer = recipe.trainer
    if recipe.optimizer.name == "adamw_8bit" and trainer.strategy in _FSDP:
        yield (
            f"optimizer.name: adamw_8bit cannot be divided by {trainer.strategy}; take adamw, or for trainer.strategy "
            "ddp or a stage of deepspeed"
        )
    if trainer.tensor_parallel == 1:
        return
    key = f"trainer.tensor_parallel={trainer.tensor_parallel}"
    if trainer.tensor_parallel < 1:
        yield f"{key}: at least 1, which is none"
    if trainer.strategy != "fsdp":
        yield f"{key}: goes with trainer.strategy=fsdp"
    if recipe.tuning.method != "full":
        yield f"{key}: for tuning.method=full only; LoRA needs a fraction of the memory, so leave it out"
    if trainer.compile:
        yield f"{key}: cannot be compiled; set trainer.compile=false"
    if trainer.precision == "16-mixed":
        yield f"{key}: gradients on several meshes cannot be unscaled; set trainer.precision=bf16-mixed"
    if recipe.optimizer.fused:
        yield f"{key}: weights on several meshes are updated one by one; set optimizer.fused=null"


def _drawing_rules(recipe: Recipe) -> Iterator[str]:
    drawings = recipe.callbacks.drawings
    if drawings is None:
        return
    if not recipe.model.decoder:
        yield "callbacks.drawings: needs model.decoder, which draws"
    if not drawings.prompts:
        yield "callbacks.drawings.prompts: is empty; give at least one, such as {parts: [{text: a dog}]}"
    for place, prompt in enumerate(drawings.prompts):
        if not prompt.parts:
            yield f"callbacks.drawings.prompts.{place}.parts: is empty"
        for number, part in enumerate(prompt.parts):
            given = [name for name, value in vars(part).items() if value is not None]
            key = f"callbacks.drawings.prompts.{place}.parts.{number}"
            if len(given) != 1:
                yield f"{key}: give one of text, image and box; {', '.join(given) or 'none'} given"
            elif part.box is not None and not _is_box(part.box):
                yield f"{key}.box: expected x1, y1, x2, y2 with x1 < x2 and y1 < y2, got {list(part.box)}"


def _is_box(corners: list[float]) -> bool:
    return len(corners) == 4 and corners[0] < corners[2] and corners[1] < corners[3]


def _resume_rules(recipe: Recipe) -> Iterator[str]:
    for key in unknown_keys(recipe.resume.allow):
        yield f"resume.allow: {key} is neither a key nor a section of a recipe; give such as data.seed or data"


def _named_files(recipe: Recipe) -> Iterator[tuple[str, str]]:
    made_here = Path(recipe.data.folder)
    for section in ("sources", "validation"):
        for index, source in enumerate(getattr(recipe.data, section)):
            pattern = any(mark in source.path for mark in "*?[{|") or "://" in source.path
            prepared = recipe.data.prepare and Path(source.path).is_relative_to(made_here)
            if not pattern and not prepared:
                yield f"data.{section}.{index}.path", source.path
            if source.prior:
                yield f"data.{section}.{index}.prior", source.prior
    if recipe.data.generation.backgrounds:
        yield "data.generation.backgrounds", recipe.data.generation.backgrounds
    for key in ("weights", "tokenizer", "decoder", "adapter"):
        value = getattr(recipe.model, key)
        if value and _is_local(value):
            yield f"model.{key}", value
    for place, prompt in enumerate(recipe.callbacks.drawings.prompts if recipe.callbacks.drawings else ()):
        for number, part in enumerate(prompt.parts):
            if part.image is not None:
                yield f"callbacks.drawings.prompts.{place}.parts.{number}.image", part.image
    for key, value in vars(recipe.evaluation.encoders).items():
        if isinstance(value, str) and (key == "inception" or _is_local(value)):
            yield f"evaluation.encoders.{key}", value
    if recipe.resume.checkpoint not in ("auto", "never"):
        yield "resume", recipe.resume.checkpoint


def _is_local(name: str) -> bool:
    """Whether a name can only be a file of this machine, not the hub's or a recipe's."""
    if catalog.is_recipe(name):
        return Path(name).suffix in catalog.SUFFIXES
    return name.startswith((".", "/", "~")) or name.endswith((".model", *WEIGHT_FILES))
