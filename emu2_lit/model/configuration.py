"""Configuration of the network: published presets, our own form and the flat form of the published checkpoints."""

import copy
import math
from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import LlamaConfig, PreTrainedConfig

from emu2_lit.errors import UserError
from emu2_lit.model.special_tokens import ADDED_TOKENS, CHAT_TOKENS, special_token_ids

_BAAI_TEXT_KEYS = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "hidden_act", "max_position_embeddings", "initializer_range", "rms_norm_eps",
    "bos_token_id", "eos_token_id", "attention_bias", "attention_dropout", "tie_word_embeddings",
)  # fmt: skip


@strict
class Emu2VisionConfig(PreTrainedConfig):
    """The EVA-CLIP tower (paper section 2.1). Also reads the published key names (width, layers, head_width, ...)."""

    model_type = "emu2_vision"
    base_config_key = "vision_config"

    image_size: int = 448
    patch_size: int = 14
    hidden_size: int = 1792
    num_hidden_layers: int = 64
    num_attention_heads: int = 16
    intermediate_size: int = 15360
    layer_norm_eps: float = 1e-6
    initializer_range: float = 0.02

    @property
    def grid_size(self) -> int:
        """Patches along one side of the picture."""
        return self.image_size // self.patch_size

    @classmethod
    def from_published(cls, values: dict[str, Any]) -> "Emu2VisionConfig":
        """Read either naming of the tower's keys; keys that only steer training of the original are ignored."""
        values = dict(values)
        width = values.get("width", values.get("hidden_size", 1792))
        ours = {k: values[k] for k in cls.__dataclass_fields__ if k in values and not k.startswith("_")}
        ours["hidden_size"] = width
        if "layers" in values:
            ours["num_hidden_layers"] = values["layers"]
        if "head_width" in values:
            ours["num_attention_heads"] = width // values["head_width"]
        if "mlp_ratio" in values and "intermediate_size" not in values:
            ours["intermediate_size"] = int(width * values["mlp_ratio"])
        return cls(**ours)

    def published_dict(self) -> dict[str, Any]:
        """The keys that the published code reads from its `vision_config`."""
        return dict(
            image_size=self.image_size, patch_size=self.patch_size, width=self.hidden_size,
            layers=self.num_hidden_layers, head_width=self.hidden_size // self.num_attention_heads,
            mlp_ratio=_ratio(self.intermediate_size, self.hidden_size), qkv_bias=True, drop_path_rate=0.0,
            layer_norm_eps=self.layer_norm_eps, xattn=False, postnorm=True,
        )  # fmt: skip


@strict
class Emu2Config(PreTrainedConfig):
    """EVA tower + LLaMA + two projections.

    `n_query` and `v_query` are the visual tokens of a still picture and of a video frame. The vocabulary is that of
    the SentencePiece model (`base_vocab_size`) followed by 272 added tokens, and two role tokens in chat models; left
    out, `base_vocab_size` is worked out of `text_config.vocab_size`.
    """

    model_type = "emu2"
    sub_configs_defaults = {"vision_config": Emu2VisionConfig, "text_config": LlamaConfig}

    vision_config: dict | PreTrainedConfig | None = None
    text_config: dict | PreTrainedConfig | None = None
    n_query: int = 64
    v_query: int = 64
    base_vocab_size: int | None = None
    initializer_range: float = 0.02
    tie_word_embeddings: bool = False

    def __post_init__(self, **kwargs):
        if not isinstance(self.vision_config, Emu2VisionConfig):
            self.vision_config = Emu2VisionConfig.from_published(dict(self.vision_config or {}))
        text = self.text_config
        if not isinstance(text, LlamaConfig):
            text = LlamaConfig(**{**_LLAMA_33B, **dict(text or {})})
        if self.base_vocab_size is None:
            self.base_vocab_size = _guess_base_vocab_size(text.vocab_size)
        text.pad_token_id = self.base_vocab_size
        self.text_config = text
        super().__post_init__(**kwargs)
        self.pad_token_id, self.bos_token_id, self.eos_token_id = text.pad_token_id, 1, 2
        self._check()

    def _check(self) -> None:
        grid = self.vision_config.grid_size
        for name in ("n_query", "v_query"):
            side = math.isqrt(getattr(self, name))
            if side**2 != getattr(self, name) or side == 0 or grid % side:
                raise UserError(
                    f"{name}={getattr(self, name)} does not fit the tower: its square root must divide the "
                    f"{grid}x{grid} patches of a {self.vision_config.image_size} px picture"
                )

    @property
    def chat(self) -> bool:
        """Whether the vocabulary holds the two role tokens."""
        return self.text_config.vocab_size >= self.base_vocab_size + len(ADDED_TOKENS) + len(CHAT_TOKENS)

    @property
    def special_ids(self) -> dict[str, int]:
        """Special token -> id."""
        return special_token_ids(self.base_vocab_size, self.chat)

    def set_vocabulary(self, base_vocab_size: int, chat: bool) -> None:
        """Fix the vocabulary to that of a SentencePiece model of `base_vocab_size` pieces.

        Raises:
            UserError: the embedding rows of this configuration do not agree with it.
        """
        expected = base_vocab_size + len(ADDED_TOKENS) + len(CHAT_TOKENS) * chat
        if self.text_config.vocab_size != expected:
            raise UserError(
                f"The tokenizer has {base_vocab_size} pieces, {expected} tokens with the {'chat' if chat else 'base'} "
                f"additions, but the model has {self.text_config.vocab_size} embedding rows: "
                "check that tokenizer and weights belong together, and `chat`"
            )
        self.base_vocab_size = base_vocab_size
        self.text_config.pad_token_id = self.pad_token_id = base_vocab_size

    def with_role_tokens(self) -> "Emu2Config":
        """A copy whose vocabulary holds the two role tokens of chat models."""
        grown = copy.deepcopy(self)
        if not self.chat:
            grown.text_config.vocab_size += len(CHAT_TOKENS)
        return grown

    @classmethod
    def preset(cls, name: str) -> "Emu2Config":
        """A named size: `emu2`, `emu2-chat`, `emu2-gen` (as published, 37B), `small` (about 100M), `tiny`."""
        if name not in PRESETS:
            raise UserError(f"unknown preset {name!r}: one of {', '.join(PRESETS)}")
        spec = PRESETS[name]
        return cls(**{k: dict(v) if isinstance(v, dict) else v for k, v in spec.items()})

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs):
        """Also takes the flat form of the published checkpoints (LLaMA's keys at the top level)."""
        if "text_config" not in config_dict and "hidden_size" in config_dict:
            config_dict = _from_baai(config_dict)
        elif "d_model" in config_dict:  # ours, saved with the published keys beside it
            ours = ("vision_config", "text_config", "n_query", "v_query", "base_vocab_size", "dtype")
            config_dict = {k: config_dict[k] for k in ours if k in config_dict}
        return super().from_dict(config_dict, **kwargs)

    def baai_dict(self) -> dict[str, Any]:
        """The flat keys that the code published with the weights needs (it has no defaults for them)."""
        text = self.text_config
        return dict(
            {key: getattr(text, key) for key in _BAAI_TEXT_KEYS},
            architectures=["EmuForCausalLM"], model_version="chat" if self.chat else "base",
            d_model=self.vision_config.hidden_size, rope_theta=text.rope_parameters["rope_theta"],
            rope_scaling=None, pretraining_tp=1, use_cache=True, pad_token_id=text.pad_token_id,
            vision_config=dict(self.vision_config.published_dict(), n_query=self.n_query, v_query=self.v_query),
        )  # fmt: skip


def _ratio(part: int, whole: int) -> float:
    """A ratio that the published code's `int(whole * ratio)` turns back into `part`."""
    ratio = part / whole
    return ratio if int(whole * ratio) == part else math.nextafter(ratio, math.inf)


def _guess_base_vocab_size(vocab_size: int) -> int:
    """The size of the SentencePiece model: of the two readings (base, chat) the rounder number.

    LLaMA's 32000 gives 32272 and 32274; a processor made from the SentencePiece file settles it for other sizes.
    """
    base, chat = vocab_size - len(ADDED_TOKENS), vocab_size - len(ADDED_TOKENS) - len(CHAT_TOKENS)
    if chat <= 0:
        raise UserError(
            f"text_config.vocab_size={vocab_size} has no room for the {len(ADDED_TOKENS)} tokens that Emu2 adds"
        )
    for divisor in (1000, 100, 10, 4):
        if (base % divisor == 0) != (chat % divisor == 0):
            return base if base % divisor == 0 else chat
    return base


def _from_baai(values: dict[str, Any]) -> dict[str, Any]:
    vision = dict(values.get("vision_config") or {})
    text = {k: values[k] for k in _BAAI_TEXT_KEYS if values.get(k) is not None}
    text["rope_parameters"] = {"rope_type": "default", "rope_theta": values.get("rope_theta", 10000.0)}
    default_query = 256 if values.get("model_version") == "chat" else 64
    out = dict(
        text_config=text, vision_config=vision,
        n_query=vision.get("n_query", values.get("n_query", default_query)),
        v_query=vision.get("v_query", values.get("v_query", 64)),
    )  # fmt: skip
    version = values.get("model_version")
    if version in ("base", "chat"):
        extra = len(ADDED_TOKENS) + (len(CHAT_TOKENS) if version == "chat" else 0)
        out["base_vocab_size"] = text["vocab_size"] - extra
    return out


_LLAMA_33B = dict(
    vocab_size=32272, hidden_size=6656, intermediate_size=17920, num_hidden_layers=60, num_attention_heads=52,
    max_position_embeddings=2048, rms_norm_eps=1e-6, hidden_act="silu",
)  # fmt: skip

TINY_VOCAB_SIZE = 480  # pieces of the tokenizer that the project builds itself for the small presets
PRESETS: dict[str, dict[str, Any]] = {
    "emu2": dict(n_query=64, v_query=64, text_config=_LLAMA_33B),
    "emu2-chat": dict(n_query=256, v_query=64, text_config=dict(_LLAMA_33B, vocab_size=32274)),
    "emu2-gen": dict(n_query=64, v_query=64, text_config=_LLAMA_33B),
    "small": dict(
        n_query=64, v_query=16, base_vocab_size=TINY_VOCAB_SIZE,
        vision_config=dict(
            image_size=112, patch_size=14, hidden_size=512, num_hidden_layers=10, num_attention_heads=8,
            intermediate_size=2048,
        ),
        text_config=dict(
            vocab_size=TINY_VOCAB_SIZE + 272, hidden_size=768, intermediate_size=2048, num_hidden_layers=10,
            num_attention_heads=12, max_position_embeddings=2048, rms_norm_eps=1e-6,
        ),
    ),
    "tiny": dict(
        n_query=4, v_query=4, base_vocab_size=TINY_VOCAB_SIZE, initializer_range=0.05,
        vision_config=dict(
            image_size=56, patch_size=14, hidden_size=64, num_hidden_layers=3, num_attention_heads=4,
            intermediate_size=256,
        ),
        text_config=dict(
            vocab_size=TINY_VOCAB_SIZE + 272, hidden_size=128, intermediate_size=384, num_hidden_layers=4,
            num_attention_heads=4, max_position_embeddings=2048, rms_norm_eps=1e-6, initializer_range=0.05,
        ),
    ),
}  # fmt: skip
