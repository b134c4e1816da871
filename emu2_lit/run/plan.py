"""The plan of a recipe: what its run will take, and whether it is there."""

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import get_args

import torch

from emu2_lit import plan as planning
from emu2_lit import recipe as recipes
from emu2_lit.errors import UserError
from emu2_lit.model import Emu2Config
from emu2_lit.model.loading import read_config
from emu2_lit.model.tensor_share import tensor_share
from emu2_lit.modules import OBJECTIVES, TuningModule
from emu2_lit.plan import Advice, Layout, Plan, Workload
from emu2_lit.recipe.schema import ModelSection, Preset, Recipe
from emu2_lit.recipe.shares import data_shares
from emu2_lit.run.assemble import build_module, draws
from emu2_lit.run.features import MIXED, TRUE
from emu2_lit.run.origin import Origin, resolve
from emu2_lit.weights import PRETRAINED

ADVICE = 3  # changes that are named


@dataclass(frozen=True)
class Circumstances:
    """What a plan needs to know beside the recipe.

    Attributes:
        devices: of the whole run; None: as the recipe says, or one.
        strategy, optimizer: in the place of the recipe's.
        memory: bytes of one device; None where it is not known.
        images: still pictures of a sample; None: one, or as many as documents may have.
        gpu: an accelerator; None: unless the recipe says cpu.
        device: a row of `planning.RATES`; None: h100 or cpu.
    """

    devices: int | None = None
    strategy: str | None = None
    optimizer: str | None = None
    memory: int | None = None
    images: int | None = None
    gpu: bool | None = None
    device: str | None = None


def plannable(recipe: Recipe) -> bool:
    """Whether it trains, and not the visual decoder."""
    return bool(recipe.data.sources) and not draws(recipe)


def plan(recipe: Recipe, given: Circumstances | None = None) -> Plan:
    """Memory, time and disk of a recipe; where it does not fit, the changes that help most.

    Raises:
        UserError: the size of the network cannot be known, the strategy is unknown, or the visual decoder is trained.
    """
    if draws(recipe):
        raise UserError(f"objective {recipe.tuning.objective}: the visual decoder's memory is not planned")
    given = given or Circumstances()
    made = _plan(recipe, given)
    if made.fits is not False:
        return made
    found = [Advice(change, _plan(*changed).peak) for change, changed in _changes(recipe, given, made)]
    enough = [one for one in found if one.peak <= made.room]  # the least sacrifice first
    others = sorted((one for one in found if made.room < one.peak < made.peak), key=lambda one: one.peak)
    return replace(made, advice=tuple([*enough, *others][:ADVICE]))


def open_recipe(name: str, overrides: Sequence[str] = ()) -> Recipe:
    """A recipe to plan; what it leaves to the user, such as the data, need not be given yet."""
    later = [f"{key}=later" for key in recipes.required_keys(recipes.read(name, overrides))]
    return recipes.load(name, [*overrides, *later])


def network_config(model: ModelSection) -> tuple[Emu2Config, str]:
    """The configuration of a recipe's model, with a name for it; weights are not read and need not be there.

    Raises:
        UserError: nothing says what size they are.
    """
    weights = model.weights
    if not weights:
        return Emu2Config.preset(model.preset), model.preset
    if recipes.is_recipe(weights):
        return network_config(open_recipe(weights).model)
    path = Path(weights).expanduser()
    if not path.exists() and "/" not in weights and (PRETRAINED / weights).is_dir():
        path = PRETRAINED / weights
    if (path / "recipe.yaml").is_file():
        return resolve(model).config, weights
    if path.exists() and (path / "config.json").is_file():
        return read_config(path), weights
    name = model.preset or _preset_of(weights)
    return Emu2Config.preset(name), f"{weights} (planned as {name})"


def _preset_of(weights: str) -> str:
    """The preset whose name is in that of the weights: `weights/emu2-chat-bf16` is an `emu2-chat`."""
    named = [preset for preset in get_args(Preset) if preset in weights.lower()]
    if not named:
        raise UserError(
            f"model.weights={weights}: not here, and its name does not say which size it is; give it with "
            f"model.preset, one of {', '.join(get_args(Preset))}"
        )
    return max(named, key=len)


def _plan(recipe: Recipe, given: Circumstances) -> Plan:
    """The plan of the fullest micro-batch. A packed row may be all text or hold as many pictures as fit: of these, the
    one that takes more."""
    if not recipe.data.packing or given.images is not None:
        return _plan_of(recipe, given)
    most = (recipe.data.max_length - 2) // (network_config(recipe.model)[0].n_query + 2)
    plans = [_plan_of(recipe, replace(given, images=images)) for images in {min(1, most), most}]
    return max(plans, key=lambda made: made.peak)


def _plan_of(recipe: Recipe, given: Circumstances) -> Plan:
    config, label = network_config(recipe.model)
    gpu = recipe.trainer.accelerator != "cpu" if given.gpu is None else given.gpu
    devices = given.devices or _devices(recipe)
    strategy, precision = given.strategy or recipe.trainer.strategy, recipe.trainer.precision
    optimizer = given.optimizer or recipe.optimizer.name
    autocast = MIXED.get(precision)
    groups = recipe.trainer.tensor_parallel if strategy == "fsdp" else 1
    shares = data_shares(replace(recipe.trainer, tensor_parallel=groups), devices)
    module = _module(recipe, planning.shortened(tensor_share(config, groups)))
    if precision in TRUE:
        module.model.to(TRUE[precision])
    if OBJECTIVES[recipe.tuning.objective].needs_role_tokens:
        config = config.with_role_tokens()
    network = planning.measure(module.model, config)
    layout = Layout(
        network, strategy, devices, recipe.trainer.num_nodes, optimizer,
        compute_width=(autocast or TRUE.get(precision) or torch.float32).itemsize, tensor_parallel=groups,
    )  # fmt: skip
    if layout.casts and autocast:
        module.model.to(autocast)
    samples, largest = _samples(recipe)
    workload = _workload(recipe, config, given.images, shares)
    passes = max(1, math.ceil(largest / (workload.samples * shares)))
    phases = planning.unfold(
        planning.trace(module, config, workload, autocast=autocast, accumulates=passes > 1, gpu=gpu),
        planning.depths(config),
    )
    memory = planning.of_step(layout, phases, accumulates=passes > 1, fused=_fused(recipe, gpu), gpu=gpu)
    if groups > 1:  # of which a rank holds a share
        network = planning.measure(_module(recipe, planning.shortened(config)).model, config)
    trained, width = network.trained, network.gradient_width
    return Plan(
        name=recipe.name or "recipe", network=label, layout=layout, workload=workload, phases=phases, memory=memory,
        work=planning.work(phases, recipe.tuning.activation_checkpointing), passes=passes, samples=samples,
        steps=recipe.trainer.max_steps, device=given.device or ("h100" if gpu else "cpu"), gpu=gpu,
        result_bytes=trained * 4 if recipe.tuning.method == "lora" else _numbers(config, recipe),
        checkpoint_bytes=int(trained * (width + planning.MOMENTS[optimizer])),
        picture_bytes=config.n_query * config.vision_config.hidden_size * 2,
        available=given.memory,
    )  # fmt: skip


def fullest_batch(recipe: Recipe, devices: int) -> dict[str, torch.Tensor]:
    """The fullest micro-batch of a run on so many devices, with blank pictures; inputs and targets are as a collator
    makes them."""
    config, _ = network_config(recipe.model)
    if OBJECTIVES[recipe.tuning.objective].needs_role_tokens:
        config = config.with_role_tokens()
    workload = _workload(recipe, config, None, data_shares(recipe.trainer, devices))
    types = {"pixel_values": torch.uint8}
    pictures = {name: torch.zeros(shape, dtype=types.get(name)) for name, shape in workload.pictures(config).items()}
    return workload.batch(config) | pictures


def work_of_samples(recipe: Recipe) -> planning.SampleWork:
    """What learning one sample takes by this recipe, from two steps that are traced."""
    recipe = copy.deepcopy(recipe)
    recipe.tuning.activation_checkpointing = False
    base, _ = network_config(recipe.model)
    config = base.with_role_tokens() if OBJECTIVES[recipe.tuning.objective].needs_role_tokens else base
    learned, least = 8, config.n_query + 16
    lengths = least, 2 * least

    def phases(length: int) -> list[planning.Phase]:
        module = _module(recipe, planning.shortened(base))
        load = Workload(1, length, images=1, learned=learned, padded=False)
        traced = planning.trace(module, config, load, autocast=torch.bfloat16)
        return planning.unfold(traced, planning.depths(config))

    return planning.sample_work(*map(phases, lengths), lengths, learned)


def _module(recipe: Recipe, config: Emu2Config) -> TuningModule:
    """The module of the recipe on the meta device; an adapter to go on from is taken to be as large as a new one."""
    recipe = copy.deepcopy(recipe)
    model = planning.meta_model(config, getattr(torch, recipe.model.dtype), recipe.model.quantization)
    roles = OBJECTIVES[recipe.tuning.objective].needs_role_tokens or config.chat
    processor = SimpleNamespace(tokenizer=SimpleNamespace(chat=roles), n_query=config.n_query)  # all it asks
    recipe.model.adapter, recipe.trainer.compile = None, False
    module = build_module(recipe, Origin(model, config, processor))
    with torch.device("meta"):
        module.configure_model()
    return module


def _fused(recipe: Recipe, gpu: bool) -> bool:
    if recipe.trainer.tensor_parallel > 1:
        return False
    return gpu if recipe.optimizer.fused is None else recipe.optimizer.fused


def _numbers(config: Emu2Config, recipe: Recipe) -> int:
    """Bytes of the whole model as a run in full leaves it."""
    model = planning.meta_model(planning.shortened(config), getattr(torch, recipe.model.dtype), None)
    return planning.measure(model, config).trained_bytes


def _devices(recipe: Recipe) -> int:
    wanted = recipe.trainer.devices
    count = wanted if isinstance(wanted, int) else len(wanted.split(",")) if wanted[:1].isdigit() else 1
    return max(count, 1) * recipe.trainer.num_nodes


def _samples(recipe: Recipe) -> tuple[float, int]:
    """Samples of one optimizer step: the mean, and the most."""
    data = recipe.data
    if not data.types:
        return data.global_batch_size, data.global_batch_size
    sizes = [kind.batch_size for kind in data.types]
    if data.mixing == "together":
        return sum(sizes), sum(sizes)
    weights = [kind.weight for kind in data.types]
    return sum(map(math.prod, zip(sizes, weights, strict=True))) / sum(weights), max(sizes)


def _workload(recipe: Recipe, config: Emu2Config, images: int | None, shares: int) -> Workload:
    """The fullest micro-batch: every sample as long as it may be."""
    data, positions = recipe.data, config.text_config.max_position_embeddings
    if data.max_length > positions:
        raise UserError(f"data.max_length={data.max_length}: the model has {positions} positions; lower it")
    objective = recipe.tuning.objective
    if images is None:
        most = {
            "unified": max((source.max_images for source in data.sources), default=1),
            "generation": 1 + 2 * data.generation.max_subjects,  # a box and an object of each
        }.get(objective, 1)
        images = min(most, (data.max_length - 2) // (config.n_query + 2))
    samples = min(data.micro_batch_size, max(1, _samples(recipe)[1] // shares))
    regressed = {"unified": images, "generation": min(images, 1)}.get(objective)
    return Workload(
        samples, data.max_length, images, regressed=regressed, cached=bool(data.features), packed=data.packing
    )


Change = tuple[str, tuple[Recipe, Circumstances]]


def _changes(recipe: Recipe, given: Circumstances, made: Plan) -> Iterator[Change]:
    """Changes that may help, each by itself."""
    data, tuning, strategy = recipe.data, recipe.tuning, made.layout.strategy

    def changed(words: str, change: Callable[[Recipe], None], **circumstances) -> Change:
        other = copy.deepcopy(recipe)
        change(other)
        return words, (other, replace(given, **circumstances))

    if made.workload.samples > 1:
        fewer = _fewer_samples(recipe, given, made)
        yield changed(f"data.micro_batch_size={fewer}", lambda r: setattr(r.data, "micro_batch_size", fewer))
    if not tuning.activation_checkpointing:
        yield changed(
            "tuning.activation_checkpointing=true", lambda r: setattr(r.tuning, "activation_checkpointing", True)
        )
    if tuning.method == "full":
        yield changed("tuning.method=lora", lambda r: setattr(r.tuning, "method", "lora"))
        if strategy not in ("fsdp", "hsdp"):  # which cannot divide it
            yield changed("optimizer.name=adamw_8bit", lambda r: setattr(r.optimizer, "name", "adamw_8bit"))
    elif not recipe.model.quantization:
        yield changed("model.quantization=nf4", lambda r: setattr(r.model, "quantization", "nf4"))
    if recipe.model.dtype == "float32":
        yield changed("model.dtype=bfloat16", lambda r: setattr(r.model, "dtype", "bfloat16"))
    if data.max_length >= 512:
        half = data.max_length // 2
        yield changed(f"data.max_length={half}", lambda r: setattr(r.data, "max_length", half))
    divisible = not recipe.model.quantization and made.layout.optimizer != "adamw_8bit"
    if strategy in ("auto", "ddp") and divisible:
        several = made.layout.devices if made.layout.devices > 1 else 8
        yield changed(f"FSDP over {several} devices", lambda r: None, strategy="fsdp", devices=several)
    elif strategy == "fsdp":
        twice = 2 * made.layout.devices
        yield changed(f"{twice} devices", lambda r: None, devices=twice)
    if tuning.method == "full":
        yield changed("DeepSpeed ZeRO-3 with offload", lambda r: None, strategy="deepspeed_stage_3_offload")


def _fewer_samples(recipe: Recipe, given: Circumstances, made: Plan) -> int:
    """The largest micro-batch that fits and divides the present one, else 1: memory is a straight line over samples."""
    single = copy.deepcopy(recipe)
    single.data.micro_batch_size = 1
    least, samples = _plan(single, given).peak, made.workload.samples
    slope = (made.peak - least) / (samples - 1)
    most = int((made.room - least) / slope) + 1 if slope > 0 else 1
    return max((count for count in range(1, samples) if samples % count == 0 and count <= most), default=1)
