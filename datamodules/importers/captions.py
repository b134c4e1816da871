"""Captioned images or videos: {image or video, caption or text}; the caption is learned after them."""

from typing import Any

from datamodules.context import Context
from datamodules.importers.instructpix2pix import TARGETS
from datamodules.turns import as_list
from emu2_lit.samples.sample import BadSample, Part, Sample

_MEDIA = {"image", "images", "video", "videos"}
_OTHERS = {"noun_chunks", "ref_exps", "objects", "noun", *TARGETS}  # of captions with boxes or subjects, of edits


def detect(record: dict[str, Any]) -> bool:
    keys = record.keys()
    return bool(keys & _MEDIA) and bool(keys & {"caption", "text"}) and not keys & _OTHERS


def to_sample(record: dict[str, Any], context: Context) -> Sample:
    parts = [Part("image", context.image(value)) for value in as_list(record.get("image", record.get("images")))]
    videos = [record["video"]] if record.get("video") else as_list(record.get("videos"))
    parts += [Part("video", context.video(value)) for value in videos]
    if not parts:
        raise BadSample("the caption has no image")
    return Sample(context.sample_id(record), (*parts, Part("text", caption_of(record), learn=True)))


def image_of(record: dict[str, Any], context: Context) -> Any:
    """The one image. Raises BadSample where there is none or more."""
    images = as_list(record.get("image"))
    if len(images) != 1:
        raise BadSample(f"the record needs one image, not {len(images)}")
    return context.image(images[0])


def caption_of(record: dict[str, Any]) -> str:
    """The caption, without the space around it. Raises BadSample where there is none."""
    caption = record.get("caption", record.get("text"))
    if not isinstance(caption, str) or not caption.strip():
        raise BadSample("the caption is empty" if isinstance(caption, str) else f"the caption is {caption!r}")
    return caption.strip()
