"""OmniGen: {instruction, input_images, output_image}, `<img><|image_1|></img>` where a picture stands; drawn last."""

import re
from typing import Any

from datamodules.context import Context
from datamodules.turns import as_list
from emu2_lit.samples.sample import BadSample, Part, Sample

_PLACE = re.compile(r"(?:<img>)?<\|image_(\d+)\|>(?:</img>)?")


def detect(record: dict[str, Any]) -> bool:
    return "instruction" in record and bool(record.keys() & {"output_image", "output_images"})


def to_sample(record: dict[str, Any], context: Context) -> Sample:
    instruction, outputs = record.get("instruction"), as_list(record.get("output_image", record.get("output_images")))
    if not isinstance(instruction, str) or not instruction.strip():
        raise BadSample(f"the instruction is {instruction!r}")
    if len(outputs) != 1:
        raise BadSample(f"what is to be drawn is one output_image, not {len(outputs)}")
    images = [context.image(value) for value in as_list(record.get("input_images"))]
    parts, used = [], set()
    for place, piece in enumerate(_PLACE.split(instruction)):  # texts, and numbers of pictures between them
        if place % 2:
            used.add(int(piece))
            parts.append(Part("image", _numbered(images, int(piece))))
        elif piece.strip():
            parts.append(Part("text", piece))
    if len(used) < len(images):
        raise BadSample(f"{len(images)} input_images, but the instruction places {len(used)} with <|image_1|> ...")
    target = Part("image", context.image(outputs[0]), learn=True)
    return Sample(context.sample_id(record), (*parts, target), as_is=True)


def _numbered(images: list[Any], number: int) -> Any:
    if not 1 <= number <= len(images):
        raise BadSample(f"the instruction places <|image_{number}|>, but there are {len(images)} input_images")
    return images[number - 1]
