"""Prompts that say what to draw: training sees the ids that inference does."""

import torch
from PIL import Image
from skimage import data as pictures

from emu2_lit.model import Emu2Config, Emu2Processor, Subject
from emu2_lit.model.box_picture import box_picture
from emu2_lit.model.drawing import prompt_segments
from emu2_lit.model.images import normalized
from emu2_lit.samples.encoding import encode
from emu2_lit.samples.render import marked
from emu2_lit.samples.sample import Part, Sample

PROCESSOR = Emu2Processor.for_config(Emu2Config.preset("tiny"))
CAT, COFFEE = Image.fromarray(pictures.chelsea()), Image.fromarray(pictures.coffee())
TARGET = Part("image", COFFEE, learn=True)
BOX = (0.1, 0.2, 0.3, 0.4)


def trained(*parts, grounding=False):
    return encode(Sample("x", (*parts, TARGET), grounding), PROCESSOR)


def before_the_picture(encoded):
    """The ids that inference has to give, up to `[IMG]` of the last picture."""
    ids = encoded.input_ids.tolist()
    first = int(encoded.visual_targets_mask.nonzero()[0])
    assert ids[first - 1] == PROCESSOR.tokenizer.token_to_id("[IMG]")
    return ids[: first - 1]


def asked(*prompt):
    return PROCESSOR.encode_segments(prompt_segments(prompt))[0]


def subject(*args):
    return Part("subject", Subject(*args))


def test_the_prompt_of_the_published_demo():
    """`["<grounding>", caption, "<phrase>the cat</phrase><object>", box picture, "</object>", picture, ...]`."""
    encoded = trained(Part("text", "a cat on a cup"), subject("the cat", BOX, CAT), subject(None, BOX), grounding=True)
    box = box_picture(BOX)
    written = asked(
        "<grounding>", "a cat on a cup", "<phrase>the cat</phrase><object>", box, "</object>", CAT, "<object>", box,
        "</object>",
    )  # fmt: skip
    assert before_the_picture(encoded) == written
    assert before_the_picture(encoded) == asked("a cat on a cup", Subject("the cat", BOX, CAT), Subject(None, BOX))
    assert torch.equal(normalized(encoded.pixel_values), PROCESSOR.pixels([box, CAT, box, COFFEE]))


def test_without_boxes_there_is_no_mark():
    encoded = trained(Part("text", "a cup like"), subject("the cat", None, CAT))
    assert before_the_picture(encoded) == asked("a cup like", "<phrase>the cat</phrase>", CAT)
    assert before_the_picture(encoded) == asked("a cup like", Subject("the cat", picture=CAT))
    assert torch.equal(normalized(encoded.pixel_values), PROCESSOR.pixels([CAT, COFFEE]))


def test_the_mark_stands_before_a_picture_that_comes_first():
    encoded = trained(Part("image", CAT), Part("text", "add a cup"), subject("a cup", BOX), grounding=True)
    assert before_the_picture(encoded) == asked(CAT, "add a cup", Subject("a cup", BOX))
    assert encoded.input_ids[1] == PROCESSOR.tokenizer.token_to_id("<grounding>")


def test_only_the_last_picture_is_learned():
    encoded = trained(Part("text", "a cat"), subject("the cat", BOX, CAT), grounding=True)
    text = marked(encoded, PROCESSOR)
    images = f"<image>*{PROCESSOR.n_query}"
    drawn = f"<object>[IMG]{images}[/IMG]</object>[IMG]{images}[/IMG]"
    assert text == f"<s><grounding>a cat<phrase>the cat</phrase>{drawn}⟦[IMG]{images}⟧[/IMG]⟦</s>⟧"
    assert int(encoded.visual_targets_mask.sum()) == PROCESSOR.n_query


def test_what_is_not_known_leaves_nothing():
    assert not Subject() and Subject(phrase="a") and Subject(box=BOX) and Subject(picture=CAT)
    assert before_the_picture(trained(Part("text", "a cat"), subject())) == asked("a cat")
