"""One subject: {image, noun, references, caption}; a folder of its pictures is read as such records; drawn.

No rare word is needed, as it is for DreamBooth (Ruiz et al. 2023): the phrase and another picture of the subject say
what is meant.
"""

from typing import Any

from datamodules.context import Context
from datamodules.importers.captions import caption_of, image_of
from datamodules.importers.grounded import place_in
from datamodules.turns import as_list
from emu2_lit.model.subjects import Subject
from emu2_lit.samples.sample import BadSample, Part, Sample


def detect(record: dict[str, Any]) -> bool:
    return {"image", "noun"} <= record.keys()


def to_sample(record: dict[str, Any], context: Context) -> Sample:
    """The picture is drawn from the caption and one of the references, drawn anew in each epoch."""
    noun = record.get("noun")
    if not isinstance(noun, str) or not noun.strip():
        raise BadSample(f"the noun of the subject is {noun!r}")
    phrase = f"the {noun.strip()}"
    caption = caption_of(record) if record.get("caption") else f"a photo of {phrase}"
    target, text = Part("image", image_of(record, context), learn=True), Part("text", caption)
    span = place_in(caption, phrase, [])
    choices = [
        (text, Part("subject", Subject(phrase, picture=context.image(value), span=span)), target)
        for value in as_list(record.get("references"))
    ]
    first, *others = choices or [(text, target)]
    return Sample(context.sample_id(record), first, as_is=True, alternatives=tuple(others))
