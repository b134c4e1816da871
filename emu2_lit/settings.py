"""Plain settings, shared by recipes and by Python users: one definition, no heavy imports."""

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

    lr: float = 1e-5  # peak learning rate
    part_lr: PartRates = field(default_factory=PartRates)  # peak rates of single parts
    betas: list[float] = field(default_factory=lambda: [0.9, 0.98])  # decay of the two moments
    eps: float = 1e-6  # keeps the division by the second moment finite
    weight_decay: float = 0.0  # on matrices only; the paper gives none
    warmup_steps: int = 100  # optimizer steps of linear warm-up
    schedule: Literal["cosine", "linear", "constant"] = "cosine"  # after the warm-up
    min_lr_ratio: float = 0.0  # the schedule ends at this share of the peak
    fused: bool = False  # one kernel for the whole update


@dataclass
class SourceSettings:
    """One file, or set of tars, of samples."""

    path: str = "???"  # a .json, .jsonl or .parquet file; tars: a path with * or {000..009}
    format: str = "auto"  # an importer's name; auto looks at the first record
    weight: float | None = None  # share of the mixture; all sources have one or none has
    name: str | None = None  # for logs and the ledger; default the file's name
    root: str | None = None  # folder of relative picture paths; default the file's own
    system_message: str | None = None  # comprehensive | concise | none | a text; default comprehensive
    num_frames: int = 8  # frames that are taken of a video, evenly spread (paper: 8, 12 or 16)
    limit: int | None = None  # only the first so many samples
