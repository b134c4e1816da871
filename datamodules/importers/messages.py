"""OpenAI / Hugging Face / ms-swift messages: [{role, content}], content a string or a list of typed parts."""

from collections.abc import Iterator
from typing import Any

from datamodules.boxes import place_boxes
from datamodules.context import Context
from datamodules.turns import Message, as_list, conversation, place_media, role_of, system_message, text_of
from emu2_lit.samples.sample import BadSample, Part, Sample


def detect(record: dict[str, Any]) -> bool:
    return isinstance(record.get("messages"), list)


def to_sample(record: dict[str, Any], context: Context) -> Sample:
    turns = record.get("messages")
    if not isinstance(turns, list) or not turns:
        raise BadSample("`messages` holds no turns")
    column = [context.image(value) for value in as_list(record.get("images", record.get("image")))]
    videos = [context.video(value) for value in as_list(record.get("videos", record.get("video")))]
    pending = iter(column)
    messages = system_message(record)
    messages += [_message(turn, place, context, pending) for place, turn in enumerate(turns, 1)]
    if record.get("objects") is not None:
        place_boxes(messages, record["objects"], column)
    if all(isinstance(turn["content"], str) for turn in turns):
        # Only this form has tags, and only with a column of media: in typed parts `<image>` is plain text.
        if column or videos:
            place_media(messages, column, videos, first=True)
    elif left := len(list(pending)):
        raise BadSample(f"{len(column)} image(s) in `images`, but {left} of them have no image part in the messages")
    return conversation(context.sample_id(record), messages)


def _message(turn: Any, place: int, context: Context, images: Iterator[Any]) -> Message:
    if not isinstance(turn, dict) or "content" not in turn:
        raise BadSample(f"turn {place} is not an object with `role` and `content`")
    role = role_of(turn.get("role"), place)
    content = turn["content"]
    if isinstance(content, list):
        parts = [_part(item, place, context, images) for item in content]
    else:
        parts = [Part("text", text_of(content, place))]
    return Message(role, parts, learn=turn.get("loss") is not False)


def _part(item: Any, place: int, context: Context, images: Iterator[Any]) -> Part:
    if isinstance(item, str):
        return Part("text", item)
    kind = item.get("type") if isinstance(item, dict) else type(item).__name__
    if kind == "text":
        if not isinstance(item.get("text"), str):
            raise BadSample(f"a text part of turn {place} has no text")
        return Part("text", item["text"])
    if kind in ("image", "image_url"):
        value = _first(item, "image_url", "image", "url", "path")
        value = next(images, None) if value is None else context.image(value)
        if value is None:
            raise BadSample(f"turn {place} has an image part, but `images` has no image left for it")
        return Part("image", value)
    if kind in ("video", "video_url"):
        return Part("video", context.video(_first(item, "video_url", "video", "url", "path")))
    raise BadSample(f"unknown content type {kind!r} in turn {place}")


def _first(item: dict[str, Any], *keys: str) -> Any:
    return next((item[key] for key in keys if item.get(key) is not None), None)
