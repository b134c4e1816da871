"""`emu2-lit data check`: what a training run would see, before it runs."""

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from itertools import groupby
from typing import Any

import numpy as np

from datamodules.documents import DocumentRules
from datamodules.generation import GenerationRules, rules_for
from datamodules.sources import Source, open_sources
from emu2_lit.samples.encoding import IGNORE, Encoded, encode
from emu2_lit.samples.render import marked
from emu2_lit.samples.sample import BadSample, Sample
from emu2_lit.settings import GenerationSettings, PictureSettings, SourceSettings

PERCENTILES = (0, 50, 90, 99, 100)


@dataclass
class CheckReport:
    """Everything a check found; `to_dict()` is plain JSON.

    left_out: records of each source that were judged too low. lengths: percentiles of tokens per good sample.
    bad: {source, id, reason} of every sample that would be skipped.
    notes: {source, id, note} of samples that lose something. examples: rendered samples, learned text in ⟦ ⟧.
    """

    sources: dict[str, int]
    samples: int = 0
    left_out: dict[str, int] = field(default_factory=dict)
    good: int = 0
    images: int = 0
    video_frames: int = 0
    learned_turns: int = 0
    tokens: int = 0
    learned_tokens: int = 0
    truncated: int = 0
    lengths: dict[str, int] = field(default_factory=dict)
    bad: list[dict[str, str]] = field(default_factory=list)
    notes: list[dict[str, str]] = field(default_factory=list)
    examples: list[dict[str, str]] = field(default_factory=list)

    @property
    def learned_share(self) -> float:
        """Learned tokens as a share of all tokens of good samples."""
        return self.learned_tokens / self.tokens if self.tokens else 0.0

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "learned_share": self.learned_share, "bad_count": len(self.bad)}

    def text(self, limit: int | None = None) -> str:
        """The report for people; `limit` shortens the list of bad samples, saying by how many."""
        return "\n".join(_lines(self, limit))


def check(
    settings: list[SourceSettings],
    processor: Any,
    max_length: int = 2048,
    examples: int = 3,
    progress: Callable[[Iterable[int]], Iterable[int]] = iter,
    learn_pictures: bool = False,
    generation: GenerationSettings | None = None,
    pictures: PictureSettings | None = None,
) -> CheckReport:
    """Import and encode every sample of the sources, pictures included.

    Args:
        examples: how many samples of each source to render.
        progress: wraps the indexes of each source, for a progress bar.
        learn_pictures: show documents as the unified objective learns them, in its first epoch.
        generation: show samples as generation tuning learns them, likewise.
        pictures: show samples as the visual decoder learns them, likewise; with `size`.
    """
    sources = open_sources(settings)
    rules = rules_for(processor, max_length, learn_pictures=learn_pictures, generation=generation, pictures=pictures)
    report = CheckReport({source.name: len(source) for source in sources})
    report.left_out = {source.name: source.left_out for source in sources if source.left_out}
    lengths: list[int] = []
    for source in sources:
        rendered = 0
        for index in progress(range(len(source))):
            report.samples += 1
            found = _try(source, index, rules, report)
            if found is None:
                continue
            sample, encoded = found
            _count(report, sample, encoded)
            lengths.append(len(encoded.input_ids))
            if rendered < examples:
                report.examples.append(_entry(source, sample.id, "text", marked(encoded, processor)))
                rendered += 1
    if lengths:
        values = np.percentile(lengths, PERCENTILES, method="nearest")
        report.lengths = {f"p{p}": int(value) for p, value in zip(PERCENTILES, values, strict=True)}
    return report


def _try(source: Source, index: int, rules: DocumentRules | GenerationRules, report: CheckReport):
    sample = None
    try:
        sample = source[index]
        sample = rules(sample, source.settings)
        return sample, encode(sample, rules.processor, rules.max_length)
    except BadSample as error:
        id = sample.id if sample else source.sample_id(index)
        report.bad.append(_entry(source, id, "reason", str(error)))
        return None


def _count(report: CheckReport, sample: Sample, encoded: Encoded) -> None:
    report.good += 1
    report.images += 0 if encoded.pixel_values is None else len(encoded.pixel_values)
    report.video_frames += 0 if encoded.video_pixel_values is None else len(encoded.video_pixel_values)
    report.learned_turns += sum(learned for learned, _ in groupby(sample.parts, key=lambda part: part.learn))
    report.tokens += len(encoded.input_ids)
    report.learned_tokens += int(((encoded.labels != IGNORE) | encoded.visual_targets_mask).sum())
    notes = list(sample.notes)
    if encoded.dropped_tokens:
        report.truncated += 1
        notes.append(f"{encoded.dropped_tokens} tokens of trailing turns do not fit and are dropped")
    source = {"source": sample.source, "id": sample.id}
    report.notes += [{**source, "note": note} for note in notes]


def _entry(source: Source, id: str, key: str, value: str) -> dict[str, str]:
    return {"source": source.name, "id": id, key: value}


def _lines(report: CheckReport, limit: int | None) -> Iterable[str]:
    for name, size in report.sources.items():
        yield f"source {name}: {size} samples" + (
            f" ({report.left_out[name]} left out by min_quality)" if name in report.left_out else ""
        )
    yield f"good samples: {report.good} of {report.samples}, bad: {len(report.bad)}"
    if report.truncated:
        yield f"samples that lose trailing turns: {report.truncated}"
    yield f"images: {report.images}; video frames: {report.video_frames}"
    yield f"tokens: {report.tokens}, learned: {report.learned_tokens} ({report.learned_share:.1%})"
    if report.lengths:
        yield "tokens per sample: " + ", ".join(f"{name} {value}" for name, value in report.lengths.items())
    yield from _listed("bad samples", [(b["source"], b["id"], b["reason"]) for b in report.bad], limit)
    yield from _listed("notes", [(n["source"], n["id"], n["note"]) for n in report.notes], limit)
    for example in report.examples:
        yield f"\nexample {example['id']} of {example['source']} (learned tokens in ⟦ ⟧):\n{example['text']}"


def _listed(title: str, rows: list[tuple[str, str, str]], limit: int | None) -> Iterable[str]:
    if not rows:
        return
    yield f"\n{title}:"
    for source, id, reason in rows[:limit]:
        yield f"  {source} / {id}: {reason}"
    if limit is not None and len(rows) > limit:
        yield f"  ... and {len(rows) - limit} more (--json lists all)"
