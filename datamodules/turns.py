"""What the conversation formats share: roles, `<image>` tags and boxes become the parts of a Sample."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from emu2_lit.samples.sample import BadSample, Part, Sample

ROLES = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
}
TAGS = re.compile(r"(<image>|<video>)")


@dataclass
class Message:
    """One turn before its parts are made: `content` mixes text and ready parts (text, image, video, box)."""

    role: str
    content: list[Part]
    learn: bool


def role_of(name: Any, place: int) -> str:
    """The role behind a format's word for it; `place` counts turns from 1."""
    if not isinstance(name, str) or name not in ROLES:
        raise BadSample(f"unknown role {name!r} in turn {place}; known: {', '.join(ROLES)}")
    return ROLES[name]


def text_of(value: Any, place: int) -> str:
    """The text of turn `place`, without the space around it."""
    if not isinstance(value, str):
        raise BadSample(f"the text of turn {place} is {value!r}, not a string")
    return value.strip()


def system_message(record: dict[str, Any]) -> list[Message]:
    """The record's `system` column as a first message, if it has one."""
    if not record.get("system"):
        return []
    if not isinstance(record["system"], str):
        raise BadSample(f"`system` is {record['system']!r}, not a string")
    return [Message("system", [Part("text", record["system"].strip())], learn=False)]


def as_list(value: Any) -> list[Any]:
    """A column that may be absent, one value or a list of them."""
    if value is None:
        return []
    return list(value) if isinstance(value, list | tuple) else [value]


def place_media(messages: list[Message], images: list[Any], videos: list[Any], first: bool = False) -> None:
    """Put images and videos where the tags of the texts stand, in order.

    With `first` (LLaVA, ms-swift), media without any tag go before the text of the first user turn. Any other
    difference between tags and media is a BadSample with both numbers.
    """
    for kind, media in (("image", images), ("video", videos)):
        count = sum(part.value.count(f"<{kind}>") for part in _texts(messages))
        if media and not count and first:
            _prepend(messages, [Part(kind, value) for value in media])
        elif count != len(media):
            raise BadSample(f"{count} <{kind}> tag(s) for {len(media)} {kind}(s)")
    queues = {"<image>": iter(images), "<video>": iter(videos)}
    for message in messages:
        message.content = [part for whole in message.content for part in _split(whole, queues)]


def _texts(messages: list[Message]) -> Iterator[Part]:
    return (part for message in messages for part in message.content if part.kind == "text")


def _prepend(messages: list[Message], parts: list[Part]) -> None:
    user = next((message for message in messages if message.role == "user"), None)
    if user is None:
        raise BadSample("there is no user turn for the sample's images")
    user.content = parts + user.content


def _split(part: Part, queues: dict[str, Iterator[Any]]) -> Iterator[Part]:
    if part.kind != "text":
        yield part
        return
    for piece in TAGS.split(part.value):
        if piece in queues and (medium := next(queues[piece], None)) is not None:
            yield Part(piece[1:-1], medium)
        elif piece:
            yield Part("text", piece)


def conversation(id: str, messages: list[Message], notes: tuple[str, ...] = ()) -> Sample:
    """A chat Sample of alternating turns.

    A system turn may only stand first; a last user turn without an answer is left out with a note. Assistant
    turns are learned, except pictures in them (the chat objective does not draw).
    """
    turns = [message for message in messages if message.role != "system"]
    if any(message.role == "system" for message in messages[1:]):
        raise BadSample("a system message may only stand first")
    for place, message in enumerate(turns):
        expected = "assistant" if place % 2 else "user"
        if message.role != expected:
            raise BadSample(f"turns must alternate: turn {place + 1} is {message.role}, expected {expected}")
        if not any(part.value for part in message.content):
            raise BadSample(f"turn {place + 1} ({message.role}) is empty")
    if not any(message.role == "assistant" for message in turns):
        raise BadSample("the conversation has no answer")
    if turns[-1].role == "user":
        messages = messages[:-1]
        notes += ("a last user turn without an answer was left out",)
    parts = tuple(_with_role(part, message) for message in messages for part in message.content)
    grounding = any(part.kind == "box" and part.role == "assistant" for part in parts)
    return Sample(id, parts, grounding=grounding, notes=notes)


def _with_role(part: Part, message: Message) -> Part:
    learn = message.learn and message.role == "assistant" and part.kind in ("text", "box")
    return Part(part.kind, part.value, message.role, learn)
