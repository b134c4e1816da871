"""What the untouched model scores, measured once and kept."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from peft import PeftModel
from torch import nn

from callbacks.records import write_text
from emu2_lit.evaluation.benchmark import Benchmark
from emu2_lit.evaluation.question import Question
from emu2_lit.model.parts import part_of, published, tuning_mode
from emu2_lit.samples.sample import picture_name

Scores = dict[str, float | None]  # "vqav2/shots_4" -> main score, None where it cannot be had
_LOOKED_AT = 64  # values of each weight


@contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """The model without its adapters; as it is where it has none."""
    if not isinstance(model, PeftModel):
        yield
        return
    with model.disable_adapter():
        yield


def tower_is_frozen(model: nn.Module) -> bool:
    """Whether pictures keep their features while it trains."""
    return not any(p.requires_grad for name, p in model.named_parameters() if part_of(name) == "visual")


def benchmark_key(benchmark: Benchmark, queries: Sequence[Question], settings: Mapping[str, Any]) -> str:
    """Names what was asked and how."""
    asked = [[_said(question) for question in some] for some in (queries, benchmark.support)]
    how = [benchmark.name, benchmark.metric, benchmark.answer_by, benchmark.max_new_tokens, dict(settings)]
    return _digest(json.dumps([how, asked], sort_keys=True, default=str).encode())


def weights_key(model: nn.Module) -> str:
    """Names the weights under the adapters by some values of each; the same wrapped by PEFT or not."""
    digest = hashlib.blake2b(digest_size=8)
    for name, parameter in model.named_parameters():
        if tuning_mode(name, requires_grad=True) != "full":
            continue
        name = published(name)
        values = parameter.detach().flatten()[:: max(1, parameter.numel() // _LOOKED_AT)][:_LOOKED_AT]
        digest.update(f"{name} {tuple(parameter.shape)} ".encode() + values.float().cpu().numpy().tobytes())
    return digest.hexdigest()


class BaseFile:
    """Scores in `base-<key>.json`; runs that share the folder and the key measure once."""

    def __init__(self, folder: Path, key: str):
        self.path = folder / f"base-{key}.json"

    def read(self) -> Scores | None:
        """None where there is none, or one that nobody can use."""
        try:
            return {str(name): score for name, score in json.loads(self.path.read_text(encoding="utf-8")).items()}
        except (OSError, ValueError, AttributeError):
            return None

    def write(self, scores: Scores) -> None:
        write_text(self.path, json.dumps(scores, indent=1) + "\n")


def _said(question: Question) -> list[Any]:
    said = [question.id, question.text, question.answers, question.choices, question.group, question.label]
    return [*said, [picture_name(image) for image in question.images], [one.id for one in question.demonstrations]]


def combined(*keys: str) -> str:
    """One key of several."""
    return _digest(" ".join(keys).encode())


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=8).hexdigest()
