"""ShareGPT as in LLaMA-Factory: {conversations: [{from, value}], images, videos, system}."""

from typing import Any

from datamodules.context import Context
from datamodules.importers.llava import read_turns
from datamodules.turns import as_list, conversation, place_media
from emu2_lit.samples.sample import Sample


def detect(record: dict[str, Any]) -> bool:
    return "conversations" in record


def to_sample(record: dict[str, Any], context: Context) -> Sample:
    messages = read_turns(record)
    images = [context.image(value) for value in as_list(record.get("images"))]
    videos = [context.video(value) for value in as_list(record.get("videos"))]
    place_media(messages, images, videos)
    return conversation(context.sample_id(record), messages)
