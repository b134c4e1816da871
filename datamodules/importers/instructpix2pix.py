"""InstructPix2Pix and its like: {original_image, edit_prompt, edited_image}; the edited picture is drawn.

The published folder (seeds.json, and folders with prompt.json and pairs of pictures) is read as such records. Names of
MagicBrush and others are understood, and `image` with the two pictures in order.
"""

from typing import Any

from datamodules.context import Context
from datamodules.turns import as_list
from emu2_lit.samples.sample import BadSample, Part, Sample

_SOURCES = ("original_image", "input_image", "source_image", "source_img")
TARGETS = ("edited_image", "output_image", "target_image", "target_img")
PICTURES = frozenset(_SOURCES + TARGETS)
_INSTRUCTIONS = ("edit_prompt", "instruction", "edit_instruction", "edit", "caption", "text")


def detect(record: dict[str, Any]) -> bool:
    named = bool(record.keys() & set(_SOURCES)) and bool(record.keys() & set(TARGETS))
    pair = len(as_list(record.get("image"))) == 2 and "edit_prompt" in record
    return pair or named


def to_sample(record: dict[str, Any], context: Context) -> Sample:
    """The picture, the instruction, the edited picture (paper, supplement D.1)."""
    pair, instruction = as_list(record.get("image")), _first(record, _INSTRUCTIONS)
    source, target = _first(record, _SOURCES), _first(record, TARGETS)
    if source is None and target is None and len(pair) == 2:
        source, target = pair
    for names, value in ((_SOURCES, source), (_INSTRUCTIONS, instruction), (TARGETS, target)):
        if value is None:
            raise BadSample(f"an edit needs `{names[0]}`; the record has {', '.join(map(str, record)) or 'nothing'}")
    if not isinstance(instruction, str) or not instruction.strip():
        raise BadSample(f"the instruction is {instruction!r}")
    shown = (Part("image", context.image(source)), Part("text", instruction.strip()))
    return Sample(context.sample_id(record), (*shown, Part("image", context.image(target), learn=True)), as_is=True)


def _first(record: dict[str, Any], names: tuple[str, ...]) -> Any:
    return next((record[name] for name in names if record.get(name) is not None), None)
