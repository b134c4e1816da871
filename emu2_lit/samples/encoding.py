"""A Sample becomes ids, labels and pixel values; labels are made with the ids, never looked for after."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import groupby, islice
from typing import Any

import torch
from torch import Tensor

from emu2_lit.model.boxes import box_segments
from emu2_lit.model.chat_template import Turn, chat_segments
from emu2_lit.model.images import ImageError, joined, load_image, square_pixels, target_pixels
from emu2_lit.model.objective import IGNORE
from emu2_lit.model.segments import Segment
from emu2_lit.model.special_tokens import EOS, FRAME, GROUNDING, IMAGE, VIDEO
from emu2_lit.model.subjects import subject_segments
from emu2_lit.model.video import read_frames
from emu2_lit.samples.features import as_rows
from emu2_lit.samples.sample import BadSample, DrawnPicture, FileSlice, Part, Sample, SizedPicture, Video, picture_name

# What pictures are called as pixels and as features, and the processor's name of their visual tokens
STILLS, FRAMES = ("pixel_values", "visual_embeds", "n_query"), ("video_pixel_values", "video_embeds", "v_query")
VISUALS = (*STILLS[:2], *FRAMES[:2])


@dataclass
class Encoded:
    """One encoded sample of T tokens.

    input_ids: (T,) int64, BOS first. labels: (T,) int64, aligned with input_ids, -100 where not learned.
    visual_targets_mask: (T,) bool, true at the slots of pictures and frames whose embedding is to be regressed.
    pixel_values: (images, 3, S, S) uint8, video_pixel_values: (frames, 3, S, S) uint8, or None. In their places, where
        the processor has a store of features, visual_embeds: (images, n_query, width), video_embeds: (frames, v_query,
        width).
    target_pixels: (targets, 3, P, P) in -1..1, what the visual decoder is to draw, and sizes: (targets, 6) float32, of
        these pictures, see SizedPicture; or None.
    dropped_tokens: tokens of trailing turns that did not fit.
    """

    input_ids: Tensor
    labels: Tensor
    visual_targets_mask: Tensor
    pixel_values: Tensor | None
    video_pixel_values: Tensor | None
    sample_id: str
    source: str
    target_pixels: Tensor | None = None
    sizes: Tensor | None = None
    visual_embeds: Tensor | None = None
    video_embeds: Tensor | None = None
    dropped_tokens: int = 0


def to_segments(sample: Sample) -> list[Segment]:
    """What the tokenizer encodes: the chat template around a conversation, `</s>` behind a document."""
    if not sample.is_chat:
        return [*_document(sample), Segment("token", EOS, learn=bool(sample.parts) and sample.parts[-1].learn)]
    turns = [
        Turn(role, [segment for part in parts for segment in part_segments(part)])
        for role, parts in groupby(sample.parts, key=lambda part: part.role)
    ]
    return chat_segments(turns, grounding=sample.grounding)


def _document(sample: Sample) -> Iterator[Segment]:
    """A document's parts; the mark of boxes stands before the first text, where they are pictures before all."""
    marked = not sample.grounding
    drawn = any(part.kind == "subject" for part in sample.parts)
    for part in sample.parts:
        if not marked and (drawn or part.kind in ("text", "box")):
            yield Segment("token", GROUNDING, learn=part.learn)
            marked = True
        yield from part_segments(part)


def part_segments(part: Part) -> list[Segment]:
    """The segments of one part."""
    if part.kind == "video":
        frames = [Segment("frame", learn=part.learn)] * part.value.slots
        return [Segment("token", VIDEO, learn=part.learn), *frames]
    if part.kind == "box":
        segments = box_segments(part.value.corners, part.value.phrase, part.value.phrase_first)
        return [replace(segment, learn=part.learn) for segment in segments]
    if part.kind == "subject":
        return subject_segments(part.value)
    text = part.value if part.kind == "text" else ""
    return [Segment(part.kind, text, learn=part.learn)]


def encode(sample: Sample, processor: Any, max_length: int | None = None, for_generation: bool = False) -> Encoded:
    """Encode a sample.

    A conversation that is longer than `max_length` loses whole trailing turns. Pictures are read last, and
    only those that are left. Raises BadSample when nothing that fits is learned or a picture cannot be read.

    Args:
        processor: an Emu2Processor.
        for_generation: the sample ends in a question; it has no labels and is never cut.
    """
    ids, learn, length = _tokens(sample, processor, max_length, may_cut=sample.is_chat and not for_generation)
    input_ids, learned = torch.tensor(ids[:length]), torch.tensor(learn[:length])
    if not for_generation and not learned.any():
        raise BadSample("nothing to learn" + (f" within {max_length} tokens" if length < len(ids) else ""))
    slots = input_ids == processor.tokenizer.token_to_id(IMAGE)
    frames = input_ids == processor.tokenizer.token_to_id(FRAME)
    visual = slots | frames
    return Encoded(
        input_ids=input_ids,
        labels=torch.where(learned & ~visual, input_ids, IGNORE),
        visual_targets_mask=learned & visual,
        sample_id=sample.id,
        source=sample.source,
        **_seen(images_of(sample), int(slots.sum()), processor, STILLS),
        **_seen(frames_of(sample), int(frames.sum()), processor, FRAMES),
        **_targets(sample),
        dropped_tokens=len(ids) - length,
    )


def token_length(sample: Sample, processor: Any, max_length: int) -> int:
    """How many tokens `encode` makes of a sample; no picture is read. Raises BadSample when it does not fit."""
    return _tokens(sample, processor, max_length, may_cut=sample.is_chat)[2]


def _tokens(sample: Sample, processor: Any, max_length: int | None, may_cut: bool) -> tuple[list[int], list[bool], int]:
    """All ids of a sample, which of them are learned, and how many are kept."""
    ids, learn = processor.encode_segments(to_segments(sample))
    return ids, learn, _fitting_length(ids, processor.tokenizer.eos_id, max_length, may_cut)


def prompt(sample: Sample) -> tuple[Sample, str]:
    """A conversation without its last answer, and that answer as text, to compare a generated one with."""
    start = end = len(sample.parts)
    while start and sample.parts[start - 1].role == "assistant":
        start -= 1
    if start == end:
        raise BadSample("the conversation does not end in an answer")
    answer = "".join(segment.text for part in sample.parts[start:] for segment in part_segments(part))
    return replace(sample, parts=sample.parts[:start]), answer.strip()


def _fitting_length(ids: list[int], eos_id: int, max_length: int | None, may_cut: bool) -> int:
    """How many ids to keep. Every answer ends in `</s>`, and ids before it do not depend on what follows."""
    if max_length is None or len(ids) <= max_length:
        return len(ids)
    ends = [place for place, token in enumerate(ids[:max_length], 1) if token == eos_id] if may_cut else []
    if not ends:
        raise BadSample(f"{len(ids)} tokens are more than max_length {max_length}, and no turn can be dropped")
    return ends[-1]


def images_of(sample: Sample) -> Iterator[Any]:
    for part in sample.parts:
        if part.kind == "image":
            yield part.value
        elif part.kind == "subject":
            yield from part.value.pictures


def frames_of(sample: Sample) -> Iterator[Any]:
    for part in sample.parts:
        if part.kind == "video":
            yield from read_video(part.value)


def read_video(video: Video) -> list[Any]:
    """The frames that the model sees, in order. Raises BadSample when they cannot be read."""
    source = video.source.read() if isinstance(video.source, FileSlice) else video.source
    try:
        frames = read_frames(source, video.slots, video.seed)
    except ImageError as error:
        raise BadSample(str(error)) from error
    if len(frames) != video.slots:
        raise BadSample(f"the video gives {len(frames)} frames, {video.slots} are needed")
    return frames


def read_picture(value: Any) -> Any:
    """An image value of a part as a PIL image in RGB. Raises BadSample when it cannot be read."""
    if isinstance(value, DrawnPicture):
        return value.picture()
    try:
        return load_image(value.read() if isinstance(value, FileSlice) else value)
    except ImageError as error:
        reason, name = str(error), picture_name(value)
        raise BadSample(reason if name in reason else f"{name}: {reason}") from error


def _targets(sample: Sample) -> dict[str, Tensor]:
    """What the visual decoder is to draw, where the sample says so."""
    pictures = (part.value for part in sample.parts if part.kind == "image")
    drawn = [value for value in pictures if isinstance(value, SizedPicture)]
    if not drawn:
        return {}
    return {
        "target_pixels": torch.stack([target_pixels(one.picture()) for one in drawn]),
        "sizes": torch.tensor([one.sizes for one in drawn], dtype=torch.float32),
    }


def _seen(pictures: Iterator[Any], slots: int, processor: Any, names: tuple[str, str, str]) -> dict[str, Tensor]:
    """The first pictures that fill the slots, stacked: as pixels or, where the processor has them, as features; the
    rest belongs to dropped turns and is not even read."""
    pixels, embeds, tokens = names
    n_query = getattr(processor, tokens)
    shown = list(islice(pictures, slots // n_query))
    if not shown:
        return {pixels: None}
    if processor.features is not None:
        return {pixels: None, embeds: as_rows(processor.features, shown, n_query)}
    return {pixels: joined([square_pixels(read_picture(value), processor.image_size)[None] for value in shown])}
