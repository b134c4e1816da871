"""WebDataset tars: images (jpg, 0.jpg, img1.jpg, ...), a video or its frames (mp4, frame_0.jpg, ...), with a json in
any of these formats or a txt."""

import re
from dataclasses import replace
from typing import Any

import datamodules.importers as formats
from datamodules.context import Context
from datamodules.importers import instructpix2pix, numbered
from datamodules.records import parse_json
from datamodules.turns import as_list
from emu2_lit.samples.sample import BadSample, Sample

IMAGE_SUFFIXES = ("jpg", "jpeg", "png", "webp")
VIDEO_SUFFIXES = ("mp4", "webm", "mkv", "mov", "avi")


def detect(record: dict[str, Any]) -> bool:
    return "__key__" in record


def to_sample(record: dict[str, Any], context: Context) -> Sample:
    members = record["members"]
    context = replace(context, key=record["__key__"], label=record["__key__"], members=members)
    if context.format == "numbered" or (context.format == "auto" and numbered.detect(record)):
        return numbered.to_sample(record, context)
    inner = _inner_record(members)
    is_pair = bool(inner.keys() & {"caption", "text"})
    frames = {name: member for name, member in members.items() if is_pair and name.startswith("frame")}
    images = image_members({name: member for name, member in members.items() if name not in frames})
    video = image_members(frames) or video_member(members)
    inner = named_pictures(members) | inner
    if images and not inner.keys() & {"image", "images"} and not _has_image_parts(inner):
        inner["image"] = images
    if video and not inner.keys() & {"video", "videos"}:
        inner["video"] = video
    return formats.import_record(inner, context, context.format)


def image_members(members: dict[str, Any]) -> list[Any]:
    """The sample's pictures: in the order of the numbers in their suffixes, those without a number first."""
    names = [name for name in members if name.rsplit(".", 1)[-1] in IMAGE_SUFFIXES]
    return [members[name] for name in sorted(names, key=_place)]


def named_pictures(members: dict[str, Any]) -> dict[str, Any]:
    """Pictures of edits, which go by their names (edited_image.jpg), as fields."""
    stems = {name: name.rsplit(".", 1)[0] for name in members if name.rsplit(".", 1)[-1] in IMAGE_SUFFIXES}
    return {stem: members[name] for name, stem in stems.items() if stem in instructpix2pix.PICTURES}


def video_member(members: dict[str, Any]) -> Any:
    """The sample's video file, or None."""
    names = [name for name in members if name.rsplit(".", 1)[-1] in VIDEO_SUFFIXES]
    if len(names) > 1:
        raise BadSample(
            f"the sample has {len(names)} videos, {', '.join(names)}: give their order in a json, as `videos`"
        )
    return members[names[0]] if names else None


def _place(suffix: str) -> tuple[int, str]:
    number = re.search(r"\d+", suffix)
    return (int(number.group()) if number else -1), suffix


def _inner_record(members: dict[str, Any]) -> dict[str, Any]:
    if "json" in members:
        try:
            record = parse_json(members["json"].read())
        except ValueError as error:
            raise BadSample(f"{members['json']} is {error}") from error
        if not isinstance(record, dict):
            raise BadSample(f"{members['json']} holds a {type(record).__name__}, not an object")
        return record
    for suffix in ("txt", "0.txt"):
        if suffix in members:
            return {"caption": members[suffix].read().decode("utf-8", "replace")}
    raise BadSample(f"the sample has no json and no txt, only: {', '.join(members)}")


def _has_image_parts(record: dict[str, Any]) -> bool:
    """Whether its messages name pictures themselves."""
    contents = [turn.get("content") for turn in as_list(record.get("messages")) if isinstance(turn, dict)]
    parts = [part for content in contents if isinstance(content, list) for part in content if isinstance(part, dict)]
    return any(part.get("type") in ("image", "image_url") and len(part) > 1 for part in parts)
