"""Emu's own tars (YT-Storyboard): {i}.txt and {i}.png of one sample, text i before picture i, a last text behind."""

import re
from typing import Any

from datamodules.context import Context
from emu2_lit.samples.sample import BadSample, Part, Sample

_MEMBER = re.compile(r"(\d+)\.(txt|png|jpg|jpeg|webp)")


def detect(record: dict[str, Any]) -> bool:
    """Numbered texts, and more than the one of a captioned picture."""
    members = record.get("members") or {}
    numbers = {match[1] for name in members if (match := _MEMBER.fullmatch(name))}
    texts = any(match[2] == "txt" for name in members if (match := _MEMBER.fullmatch(name)))
    return texts and not {"json", "txt"} & members.keys() and (len(numbers) > 1 or "final_meta.json" in members)


def to_sample(record: dict[str, Any], context: Context) -> Sample:
    members = record.get("members")
    if members is None:
        raise BadSample("numbered texts and pictures are members of a tar; this is a record of another file")
    parts = []
    for number, is_picture, name in sorted(_places(members)):
        if is_picture:
            parts.append(Part("image", members[name], group=number))
        elif text := members[name].read().decode("utf-8", "replace").strip():
            parts.append(Part("text", f"{text} ", learn=True, group=number))
    if not parts:
        raise BadSample(f"the sample has no numbered texts and pictures, only: {', '.join(members)}")
    return Sample(context.sample_id({}), tuple(parts))


def _places(members: dict[str, Any]) -> list[tuple[int, bool, str]]:
    matches = (_MEMBER.fullmatch(name) for name in members)
    return [(int(match[1]), match[2] != "txt", match[0]) for match in matches if match]
