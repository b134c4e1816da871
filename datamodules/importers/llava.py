"""LLaVA JSON: {id, image, conversations: [{from: human|gpt, value}]}; images at `<image>` or first."""

from typing import Any

from datamodules.context import Context
from datamodules.turns import Message, as_list, conversation, place_media, role_of, system_message, text_of
from emu2_lit.samples.sample import BadSample, Part, Sample


def detect(record: dict[str, Any]) -> bool:
    return "conversations" in record and ("image" in record or not record.keys() & {"images", "videos", "system"})


def to_sample(record: dict[str, Any], context: Context) -> Sample:
    images = [context.image(value) for value in as_list(record.get("image", record.get("images")))]
    videos = [context.video(record["video"])] if record.get("video") else []
    messages = read_turns(record)
    if videos and not images:
        # LLaVA-Video puts a video where others put a picture, tag included.
        for message in messages:
            message.content = [Part("text", part.value.replace("<image>", "<video>")) for part in message.content]
    messages, notes = skip_leading_answers(messages)
    place_media(messages, images, videos, first=True)
    return conversation(context.sample_id(record), messages, notes)


def read_turns(record: dict[str, Any]) -> list[Message]:
    """`system` and the {from, value} turns; {role, content} is read too, since files mix them."""
    turns = record.get("conversations")
    if not isinstance(turns, list) or not turns:
        raise BadSample("`conversations` holds no turns")
    messages = system_message(record)
    for place, turn in enumerate(turns, 1):
        if not isinstance(turn, dict):
            raise BadSample(f"turn {place} is a {type(turn).__name__}, not an object")
        role = role_of(turn.get("from", turn.get("role")), place)
        text = text_of(turn.get("value", turn.get("content")), place)
        messages.append(Message(role, [Part("text", text)], learn=turn.get("loss") is not False))
    return messages


def skip_leading_answers(messages: list[Message]) -> tuple[list[Message], tuple[str, ...]]:
    """LLaVA's rule: a conversation that begins with an answer begins at its first question instead."""
    system = [message for message in messages if message.role == "system"][:1]
    start = next((i for i, message in enumerate(messages) if message.role == "user"), 0)
    skipped = sum(message.role == "assistant" for message in messages[:start])
    if not skipped:
        return messages, ()
    return system + messages[start:], (f"{skipped} leading assistant turn(s) left out",)
