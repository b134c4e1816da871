"""Plain settings, shared by recipes and by Python users: one definition, no heavy imports."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

LM_LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass
class LoraSettings:
    """Low-rank adapters on linear layers."""

    rank: int = 16  # of the update; more learns more and costs memory
    alpha: float = 32.0  # the update is scaled by alpha / rank
    dropout: float = 0.05  # of the adapters' input
    targets: list[str] = field(default_factory=lambda: list(LM_LINEARS))  # linear layers, by the end of their name
    use_dora: bool = False  # learn magnitude and direction apart; slower
    use_rslora: bool = False  # scale by alpha / sqrt(rank), for high ranks


@dataclass
class PartRates:
    """Peak learning rates of parts of the network; null: that of all."""

    visual: float | None = None  # the visual encoder
    project_up: float | None = None  # from its space into the language model's
    project_down: float | None = None  # and back
    embeddings: float | None = None  # of tokens
    lm: float | None = None  # the language model's blocks and last norm
    lm_head: float | None = None  # from its space to tokens

    def given(self) -> dict[str, float]:
        """The rates that are set, by part."""
        return {part: rate for part, rate in vars(self).items() if rate is not None}


@dataclass
class OptimizerSettings:
    """AdamW with warm-up; the defaults are those of Emu2-Chat (paper, table 8)."""

    name: Literal["adamw", "adamw_8bit"] = "adamw"  # adamw_8bit: moments of 8 bits with bitsandbytes
    lr: float = 1e-5  # peak learning rate
    part_lr: PartRates = field(default_factory=PartRates)  # peak rates of single parts
    betas: list[float] = field(default_factory=lambda: [0.9, 0.98])  # decay of the two moments
    eps: float = 1e-6  # keeps the division by the second moment finite
    weight_decay: float = 0.0  # on matrices only; the paper gives none
    warmup_steps: int = 100  # optimizer steps of warm-up
    warmup: Literal["linear", "log"] = "linear"  # its curve; log: of the step's logarithm (paper: the decoder's)
    schedule: Literal["cosine", "linear", "constant"] = "cosine"  # after the warm-up
    min_lr_ratio: float = 0.0  # the schedule ends at this share of the peak
    fused: bool | None = None  # adamw: one kernel for the whole update; null: where all that trains is on a GPU


@dataclass
class DrawingSettings:
    """How the visual decoder draws; the defaults are those of the paper (supplement E)."""

    guidance_scale: float = 3.0  # how far to go away from an empty prompt; 1 is no guidance
    steps: int = 50  # of denoising
    height: int | None = None  # pixels, a multiple of 8; null: what the decoder was made for (published: 1024)
    width: int | None = None  # likewise
    images_per_prompt: int = 1  # pictures of one prompt
    batch_size: int = 1  # prompts that benchmarks and callbacks draw at once
    seed: int = 0  # of the first picture's noise; the next ones count up


@dataclass
class EncoderSettings:
    """What judges drawn pictures; nothing is downloaded."""

    dino: str | None = None  # folder of transformers' ViT: facebook/dino-vits16 (published); null: no DINO score
    clip: str | None = None  # of a CLIP: openai/clip-vit-base-patch32 (published); null: no CLIP-I and CLIP-T
    inception: str | None = None  # file of FID's network (needs torch-fidelity); null: no FID and KID
    tower: bool = True  # the model's own visual encoder, which needs no other weights


@dataclass
class SourceSettings:
    """One file, or set of tars, of samples."""

    path: str = "???"  # a .json, .jsonl or .parquet file; tars: a path with * or {000..009}
    format: str = "auto"  # an importer's name; auto looks at the first record
    weight: float | None = None  # share of the mixture; all sources have one or none has
    name: str | None = None  # for logs and the ledger; default the file's name
    root: str | None = None  # folder of relative picture paths; default the file's own
    system_message: str | None = None  # comprehensive | concise | none | a text; default comprehensive
    num_frames: int = 8  # frames of a video: evenly spread, in documents drawn at random (paper: 8, 12 or 16)
    limit: int | None = None  # only the first so many samples
    type: str | None = None  # one of data.types, where there are any
    max_length: int | None = None  # tokens of a document at most; null: data.max_length (paper: 1024 for MMC4)
    max_images: int = 8  # pictures of a document, drawn anew in every epoch (paper: 8)
    image_first: float = 0.5  # objective unified: how often a picture stands before its text (paper: 0.5)
    phrase_first: float = 0.7  # how often a phrase stands before its box (paper: 0.7)
    min_similarity: float = 0.0  # mmc4: pictures less like their sentence are left out (OpenFlamingo: 0.24)
    min_score: float = 0.0  # grit: boxes of which the detector was less sure are left out
    min_quality: float | None = None  # subjects200k: pairs judged lower in any respect are left out (usual: 5)
    noun: str | None = None  # folder of one subject: what it is, such as dog; null: the folder's name
    prior: str | None = None  # folder of one subject: a folder of others of its kind, learned from text alone


@dataclass
class PictureSettings:
    """What the visual decoder learns of a picture: a square, scaled and cut at random."""

    size: int | None = None  # pixels of its side; null: those of the decoder (paper: 1024)
    min_size: int = 0  # pixels of the picture's shorter side; smaller ones go to the ledger (paper: 512)
    max_scale: float = 1.0  # the shorter side is made 1 to so many times `size`, at random (paper: not how much)


@dataclass
class GenerationSettings:
    """How subjects are shown to generation tuning; the paper varies them so, but no rate below is the paper's."""

    drop_phrase: float = 0.1  # how often a subject is not named
    drop_box: float = 0.3  # how often its place is not given
    drop_object: float = 0.2  # how often its picture is not shown
    inline: float = 0.5  # how often subjects stand at their words in the caption (paper), else behind it (its demo)
    max_subjects: int = 4  # subjects of a sample, drawn anew in every epoch
    random_background: float = 0.5  # how often a subject with a mask gets another background: plain or noise
    backgrounds: str | None = None  # a folder of pictures that may be one, too
    random_crop: float = 0.5  # how often the edges of a subject's picture are moved
    variants: int = 0  # backgrounds and crops of a subject, used in turn (for data.features); 0: new in every epoch
    crop_shift: float = 0.1  # by how much of its width and height at most
    min_size: int | None = None  # pixels of the shorter side of what is drawn; null: the model's (paper: 448)


@dataclass
class TypeSettings:
    """A kind of data with a batch size of its own."""

    name: str = "???"  # what sources call it
    batch_size: int = 128  # samples of one optimizer step, over all devices
    weight: float = 1.0  # share of the steps, with data.mixing: alternate


def type_problems(types: Sequence[TypeSettings], sources: Sequence[SourceSettings]) -> Iterator[str]:
    """What keeps sources and types from fitting each other, one message each."""
    names = [kind.name for kind in types]
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield f"data.types: {name} occurs twice"
    for place, source in enumerate(sources):
        if source.type not in (names or [None]):
            legal = f"one of {', '.join(names)}" if names else "null, for there are no data.types"
            yield f"data.sources.{place}.type: {source.type} is not {legal}"
    for kind in types:
        if not kind.weight > 0:
            yield f"data.types: the weight of {kind.name} must be positive; leave a type out instead"
        if kind.name not in {source.type for source in sources}:
            yield f"data.types: no source has the type {kind.name}; set `type: {kind.name}` at one"


@dataclass
class SlurmSettings:
    """The job of `emu2-lit submit`. What is null is left to the cluster, or stands in ~/.config/emu2-lit/slurm.yaml."""

    nodes: int | None = None  # machines; sets trainer.num_nodes, null: as many as that says
    gpus: int | None = None  # of each machine; sets trainer.devices, null: as many as that says; 0: none
    time: str | None = None  # longest time at a stretch: 4:00:00 or 1-12:00:00 (a bare number: seconds)
    partition: str | None = None  # queue
    account: str | None = None  # who pays
    qos: str | None = None  # quality of service
    constraint: str | None = None  # kind of machine
    cpus: int | None = None  # cores per process; null: data.workers + 1
    mem: str | None = None  # memory per machine, such as 200G; 0: all of it
    venv: str | None = None  # a Python environment to activate; null: the Python that submits
    container: str | None = None  # an image to run in, by its own `python`
    container_runtime: Literal["apptainer", "pyxis"] = "apptainer"  # what runs it
    container_mounts: list[str] = field(default_factory=list)  # folders it sees beside the current one
    setup: list[str] = field(default_factory=list)  # shell lines before it, such as `module load cuda`; none may fail
    environment: dict[str, str] = field(default_factory=dict)  # variables of the run; no secrets: it is written down
    signal: Literal["USR1", "USR2"] = "USR1"  # tells the run to save before the time is over
    signal_lead: int = 180  # seconds before the end at which it does; must be longer than a step and a save
    requeue: bool = True  # go on by itself after the end of the time or a preemption, until the run is done
    max_restarts_without_progress: int = 3  # then it is not started again
    array: list[str] = field(default_factory=list)  # a run per item, which are its overrides: 'optimizer.lr=1e-4'
    array_parallel: int | None = None  # runs of the array at once; null: all
    dependency: str | None = None  # waits for: afterok:1234, or afterok:RUN with a submitted run's folder
    extra: list[str] = field(default_factory=list)  # other options of sbatch, such as --reservation=x
