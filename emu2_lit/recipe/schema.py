"""Every key a recipe may hold: its type with the legal values, its default, and what it means.

This is the only place that says so: `load` checks recipes against it, and `show` prints the comments behind
the fields. Paper values are those of Emu2's instruction tuning (Emu2 paper, supplement, table 8).
"""

import inspect
import re
from dataclasses import dataclass, field
from typing import Literal, get_args

from emu2_lit.settings import DrawingSettings as DrawingSection
from emu2_lit.settings import EncoderSettings as EncoderSection
from emu2_lit.settings import GenerationSettings as GenerationSection
from emu2_lit.settings import LoraSettings as LoraSection
from emu2_lit.settings import OptimizerSettings as OptimizerSection
from emu2_lit.settings import PictureSettings as PictureSection
from emu2_lit.settings import SlurmSettings as SlurmSection
from emu2_lit.settings import SourceSettings as SourceSection
from emu2_lit.settings import TypeSettings as TypeSection

Preset = Literal["emu2", "emu2-chat", "emu2-gen", "small", "tiny"]
Dtype = Literal["float32", "bfloat16", "float16"]
Part = Literal["visual", "project_up", "project_down", "embeddings", "lm", "lm_head"]
Objective = Literal["chat", "caption", "unified", "generation", "decoder", "autoencoder"]
Strategy = Literal[
    "auto", "ddp", "fsdp", "hsdp",
    "deepspeed_stage_2", "deepspeed_stage_2_offload", "deepspeed_stage_3", "deepspeed_stage_3_offload",
]  # fmt: skip
Precision = Literal["32-true", "bf16-mixed", "bf16-true", "16-mixed", "16-true"]
Logger = Literal["tensorboard", "csv", "wandb"]


@dataclass
class ModelSection:
    """Which network, and with which weights, a run starts from."""

    preset: Preset | None = None  # sizes; null: those recorded with the weights. Alone: random weights
    weights: str | None = None  # folder, native file, hub name, finished run, or recipe (run first)
    tokenizer: str | None = None  # tokenizer.model or its folder; null: beside the weights, else the tiny one
    decoder: str | None = None  # draws: folder (Emu2-Gen's), native file, run, recipe, or preset with random weights
    adapter: str | None = None  # a LoRA folder to go on from
    dtype: Dtype = "bfloat16"  # of the weights that do not train; those that train are kept in float32
    quantization: Literal["nf4"] | None = None  # nf4: the LM in 4 bits with bitsandbytes (QLoRA)
    attention: Literal["sdpa"] = "sdpa"  # attention kernel of the LM and the tower


@dataclass
class TuningSection:
    """What is learned, and by which weights."""

    objective: Objective = "chat"  # answers; text; all; the last picture; to draw embeddings (model.decoder); its VAE
    visual_loss_weight: float = 1.0  # unified: how much the visual loss counts beside the text loss (paper: not given)
    gradient_norm_interval: int = 100  # unified: steps between two measurements of each loss's gradient; 0: none
    noise_offset: float = 0.1  # decoder: deviation of noise that a whole channel shares (paper: 0.1)
    condition_drop: float = 0.1  # decoder: share of pictures learned without their embeddings (paper: 0.1)
    new_conditions: bool = False  # decoder: what reads conditions starts at random, to begin with SDXL (paper)
    kl_weight: float = 1.0e-6  # autoencoder: how much the latents are held to a unit normal
    method: Literal["lora", "full"] = "lora"  # lora: adapters only; full: every part that is not frozen
    lora: LoraSection = field(default_factory=LoraSection)  # with method lora
    train_new_tokens: bool = True  # with method lora: also the embeddings of tokens that are new to the base
    # The chat loss does not reach project_down, so it would only decay.
    frozen: list[Part] = field(default_factory=lambda: ["visual", "project_down"])  # parts of which nothing trains
    activation_checkpointing: bool = False  # recompute activations: less memory, about a third slower


@dataclass
class DataSection:
    """What it learns from, and in which portions."""

    prepare: Literal["digits", "episodes", "drawings"] | None = None  # data that are made on the spot, before the run
    features: str | None = None  # what `data cache` has written: trains without the tower; null: pictures live
    folder: str = "data"  # where `prepare` writes
    sources: list[SourceSection] = field(default_factory=list)  # training data
    validation: list[SourceSection] = field(default_factory=list)  # held-out data, in fixed order
    types: list[TypeSection] = field(default_factory=list)  # kinds of data with batch sizes of their own; empty: none
    mixing: Literal["alternate", "together"] = "alternate"  # a step holds one type, or each type's batch
    generation: GenerationSection = field(default_factory=GenerationSection)  # how subjects are shown
    pictures: PictureSection = field(default_factory=PictureSection)  # decoder, autoencoder: what is cut out of them
    packing: bool = False  # chat: conversations share rows of up to max_length tokens; batch sizes then count rows
    global_batch_size: int = 128  # samples, or packed rows, of one optimizer step, over all devices (paper: 768)
    micro_batch_size: int = 1  # samples, or packed rows, of one forward pass on one device
    max_length: int = 2048  # tokens; longer samples lose whole trailing turns (paper: 2048)
    workers: int = 2  # processes that read and decode, per device
    seed: int = 0  # of the order of the samples
    validation_limit: int | None = None  # validation samples used; null: all
    bad_budget: float = 0.01  # share of a source that may be unreadable before the run stops


@dataclass
class TrainerSection:
    """Lightning's Trainer, by its own argument names; accumulation follows from data.global_batch_size."""

    max_steps: int | None = None  # optimizer steps; give this or max_epochs (paper: 8000)
    max_epochs: float | None = None  # passes over the training data, made into steps
    accelerator: str = "auto"  # auto, cpu, gpu, ...
    devices: int | str = "auto"  # how many, or which: '0,1'
    num_nodes: int = 1  # machines
    strategy: Strategy = "auto"  # auto: one device, or ddp on several
    shard_devices: int | None = None  # hsdp: devices that divide the model between them; null: those of one machine
    tensor_parallel: int = 1  # fsdp, full: devices that share samples and divide the LM's products; 52 heads: 2 or 4
    precision: Precision = "bf16-mixed"  # arithmetic of the forward pass (paper: bf16); -true: of what trains, too
    gradient_clip_val: float | None = 5.0  # largest norm of the gradient (paper: 5.0); null: no clipping
    val_check_interval: int | None = None  # optimizer steps between validations; null: at the end only
    limit_val_batches: int | None = None  # micro-batches of one validation; null: all
    log_every_n_steps: int = 10  # optimizer steps between two logged points
    compile: bool = False  # torch.compile of the LM's blocks while training: a slow start, then faster steps
    profiler: Literal["simple", "advanced", "pytorch"] | None = None  # measure the parts of a step
    fast_dev_run: int = 0  # dry run of so many steps; nothing is saved or logged
    deterministic: bool = False  # deterministic kernels only (slower on GPU)
    enable_progress_bar: bool = True  # false: plain lines
    check_memory: bool = True  # plan the memory first, and do not start what cannot fit (`emu2-lit plan`)
    rehearse: bool | None = None  # run the fullest micro-batch once, without an update, first; null: not on a CPU


@dataclass
class AnswersSection:
    """Answers generated at each validation, compared with the reference (exact match) and drawn."""

    limit: int = 64  # validation samples answered
    max_new_tokens: int = 16  # longest answer
    batch_size: int = 32  # samples answered at once
    grid: int = 16  # samples drawn


@dataclass
class PromptPartSection:
    """One piece of a prompt: exactly one of its keys is given."""

    text: str | None = None  # as it stands, nothing is put between pieces
    image: str | None = None  # a picture's file
    box: list[float] | None = None  # x1, y1, x2, y2 in 0..1, drawn as a picture of its outline


@dataclass
class PromptSection:
    """What is drawn, in reading order."""

    parts: list[PromptPartSection] = field(default_factory=list)  # one picture alone is drawn from its own embeddings


@dataclass
class DrawingsSection:
    """Fixed prompts, drawn by the untouched model once and by the tuned one again and again."""

    prompts: list[PromptSection] = field(default_factory=list)  # each with noise of its own, the same for both
    every_n_steps: int = 500  # optimizer steps; and at the end


@dataclass
class CallbacksSection:
    """What watches the run."""

    answers: AnswersSection | None = field(default_factory=AnswersSection)  # null: generate nothing
    drawings: DrawingsSection | None = None  # null: draw nothing; needs model.decoder
    gradient_check_steps: int = 8  # steps within which every trained tensor must get a gradient; 0: no check
    nonfinite_limit: int | None = 5  # updates in a row dropped for NaN or infinity before the run stops; null: no limit
    spike_deviations: float | None = 8.0  # tell of losses so far above the median of the last 100; null: never
    stuck_after: int | None = 1800  # seconds without a micro-batch after which several processes end; null: they wait
    checkpoint_every_n_steps: int = 500  # optimizer steps between two checkpoints
    keep_checkpoints: int = 2  # newest checkpoints kept
    keep_best: str | None = None  # and the best by a logged figure, such as in_context/vqav2/shots_4 or val/loss
    batch_digests: bool = True  # note every consumed sample in run.dir/batches, for `data compare`
    throughput: bool = True  # log tokens/s, samples/s, memory, share of time spent waiting for data
    report: bool = True  # write report.html


@dataclass
class BenchmarkSection:
    """Questions, or prompts to draw, with a metric."""

    name: str = "???"  # such as vqav2; `emu2-lit evaluate --list` names all
    path: str = "???"  # the folder of its official files
    split: str | None = None  # null: the one that the paper reports; dreambench: one | all references
    limit: int | None = None  # only so many questions, spread evenly


@dataclass
class EvaluationSection:
    """Scores: while tuning, at every validation beside the untouched model, and by `emu2-lit evaluate`."""

    benchmarks: list[BenchmarkSection] = field(default_factory=list)  # empty: none
    shots: list[int] = field(default_factory=lambda: [0, 1, 2, 4])  # demonstrations; per class in N-way tasks
    demonstrations: Literal["random", "fixed", "rices"] = "random"  # rices: the most similar pictures (paper)
    dialect: Literal["emu2", "openflamingo", "llava"] = "emu2"  # wording of the prompts
    zero_shot: Literal["true", "text"] = "true"  # text: Flamingo's, two demonstrations without their pictures
    chat: bool | None = None  # in the chat template; null: where the tokenizer has roles
    n_query: int | None = None  # visual tokens per picture; null: 64 at most
    num_beams: int = 5  # of generated answers (paper: 5)
    length_penalty: float = -1.0  # likewise (published code: -1)
    batch_size: int = 8  # questions answered at once
    seed: int = 0  # of the draw of demonstrations
    stop_below: float | None = None  # end a run that scores so much less than the untouched model at most shots
    encoders: EncoderSection = field(default_factory=EncoderSection)  # judges of benchmarks that draw
    grid: int = 4  # questions drawn of each benchmark


@dataclass
class RunSection:
    """Where the run lives and what it writes."""

    name: str | None = None  # null: the recipe's name
    dir: str | None = None  # folder of the run; null: runs/<name>
    seed: int = 0  # of new weights, dropout and generation
    logger: list[Logger] = field(default_factory=lambda: ["tensorboard"])  # any of tensorboard, csv, wandb


@dataclass
class ResumeSection:
    """Where a run starts; `resume: never` is short for `resume.checkpoint: never`."""

    checkpoint: str = "auto"  # auto: go on where run.dir stands; never: start anew; or a checkpoint's path
    allow: list[str] = field(default_factory=list)  # keys and sections that may differ from the checkpoint's recipe


@dataclass
class Recipe:
    """A typed recipe: everything that one command needs to know."""

    model: ModelSection = field(default_factory=ModelSection)
    tuning: TuningSection = field(default_factory=TuningSection)
    data: DataSection = field(default_factory=DataSection)
    optimizer: OptimizerSection = field(default_factory=OptimizerSection)
    trainer: TrainerSection = field(default_factory=TrainerSection)
    callbacks: CallbacksSection = field(default_factory=CallbacksSection)
    evaluation: EvaluationSection = field(default_factory=EvaluationSection)
    drawing: DrawingSection = field(default_factory=DrawingSection)  # of benchmarks and callbacks
    run: RunSection = field(default_factory=RunSection)
    slurm: SlurmSection = field(default_factory=SlurmSection)
    resume: ResumeSection = field(default_factory=ResumeSection)

    @property
    def name(self) -> str:
        """How the recipe is called: its shipped name, or its path without the suffix."""
        return self.run.name or ""


INFINITY = float("inf")
RANGES = {  # least and greatest legal number, where a type cannot say it; the items of a list share one entry
    "tuning.visual_loss_weight": (0, INFINITY),
    "tuning.gradient_norm_interval": (0, INFINITY),
    "tuning.noise_offset": (0, INFINITY),
    "tuning.condition_drop": (0, 1),
    "tuning.kl_weight": (0, INFINITY),
    "tuning.lora.rank": (1, INFINITY),
    "tuning.lora.alpha": (0, INFINITY),
    "tuning.lora.dropout": (0, 1),
    "data.sources.weight": (0, INFINITY),
    **{
        f"data.{kind}.{key}": limits
        for kind in ("sources", "validation")
        for key, limits in {
            "num_frames": (1, INFINITY),
            "limit": (1, INFINITY),
            "max_length": (8, INFINITY),
            "max_images": (1, INFINITY),
            "image_first": (0, 1),
            "phrase_first": (0, 1),
            "min_similarity": (-1, 1),
            "min_score": (0, 1),
            "min_quality": (0, INFINITY),
        }.items()
    },
    "data.types.batch_size": (1, INFINITY),
    "data.types.weight": (0, INFINITY),
    **{f"data.generation.{key}": (0, 1) for key in ("drop_phrase", "drop_box", "drop_object", "inline")},
    **{f"data.generation.{key}": (0, 1) for key in ("random_background", "random_crop")},
    "data.generation.variants": (0, INFINITY),
    "data.generation.crop_shift": (0, 0.45),
    "data.generation.max_subjects": (0, INFINITY),
    "data.generation.min_size": (1, INFINITY),
    "data.pictures.size": (8, INFINITY),
    "data.pictures.min_size": (0, INFINITY),
    "data.pictures.max_scale": (1, INFINITY),
    "data.global_batch_size": (1, INFINITY),
    "data.micro_batch_size": (1, INFINITY),
    "data.max_length": (8, INFINITY),
    "data.workers": (0, INFINITY),
    "data.validation_limit": (1, INFINITY),
    "data.bad_budget": (0, 1),
    "optimizer.lr": (0, INFINITY),
    **{f"optimizer.part_lr.{part}": (0, INFINITY) for part in get_args(Part)},
    "optimizer.betas": (0, 1),
    "optimizer.eps": (0, INFINITY),
    "optimizer.weight_decay": (0, INFINITY),
    "optimizer.warmup_steps": (0, INFINITY),
    "optimizer.min_lr_ratio": (0, 1),
    "trainer.max_steps": (1, INFINITY),
    "trainer.max_epochs": (0, INFINITY),
    "trainer.num_nodes": (1, INFINITY),
    "trainer.gradient_clip_val": (0, INFINITY),
    "trainer.val_check_interval": (1, INFINITY),
    "trainer.limit_val_batches": (0, INFINITY),
    "trainer.log_every_n_steps": (1, INFINITY),
    "trainer.fast_dev_run": (0, INFINITY),
    "evaluation.benchmarks.limit": (1, INFINITY),
    "evaluation.shots": (0, INFINITY),
    "evaluation.n_query": (1, INFINITY),
    "evaluation.num_beams": (1, INFINITY),
    "evaluation.batch_size": (1, INFINITY),
    "evaluation.stop_below": (0, INFINITY),
    "evaluation.grid": (0, INFINITY),
    "drawing.batch_size": (1, INFINITY),
    "callbacks.answers.limit": (1, INFINITY),
    "callbacks.answers.max_new_tokens": (1, INFINITY),
    "callbacks.answers.batch_size": (1, INFINITY),
    "callbacks.answers.grid": (0, INFINITY),
    "callbacks.drawings.every_n_steps": (1, INFINITY),
    "callbacks.drawings.prompts.parts.box": (0, 1),
    "drawing.guidance_scale": (1, INFINITY),
    "drawing.steps": (1, INFINITY),
    "drawing.height": (8, INFINITY),
    "drawing.width": (8, INFINITY),
    "drawing.images_per_prompt": (1, INFINITY),
    "callbacks.gradient_check_steps": (0, INFINITY),
    "callbacks.nonfinite_limit": (1, INFINITY),
    "callbacks.spike_deviations": (0, INFINITY),
    "callbacks.stuck_after": (1, INFINITY),
    "callbacks.checkpoint_every_n_steps": (1, INFINITY),
    "callbacks.keep_checkpoints": (1, INFINITY),
    "slurm.nodes": (1, INFINITY),
    "slurm.gpus": (0, INFINITY),
    "slurm.cpus": (1, INFINITY),
    "slurm.signal_lead": (1, 65535),
    "slurm.max_restarts_without_progress": (1, INFINITY),
    "slurm.array_parallel": (1, INFINITY),
}


def notes(section: type) -> dict[str, str]:
    """The comment behind each field of a section."""
    return dict(re.findall(r"^    (\w+): .*?  # (.+)$", inspect.getsource(section), flags=re.MULTILINE))
