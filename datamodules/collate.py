"""Encoded samples become one right-padded batch; a skipped sample keeps its slot."""

from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from xxhash import xxh3_128

from datamodules.budget import Skipped
from emu2_lit.errors import UserError
from emu2_lit.model.images import joined
from emu2_lit.samples.encoding import IGNORE, VISUALS, Encoded


@dataclass(frozen=True)
class Draw:
    """What stands at a position of the order; `item` is None behind the end of validation data."""

    source: str
    epoch: int
    item: Encoded | Skipped | None
    position: int | tuple[int, int] | None = None


class Collator:
    """Collates a micro-batch of B draws into a dict.

    input_ids, attention_mask, labels: (B, T) int64; visual_targets_mask: (B, T) bool, all right-padded;
    pixel_values: (images, 3, S, S) and video_pixel_values: (frames, 3, S, S), uint8, in reading order, target_pixels:
        (targets, 3, P, P) and sizes: (targets, 6) of what the visual decoder is to draw, each absent where there are
        none; visual_embeds and video_embeds in the place of pixels that the tower has seen before; and Python lists:
        sample_ids, sources, epochs, positions (in the order), skipped (dicts: source, id,
        reason, position, epoch) and, if `digests`, digests. A draw without a sample is a row of BOS alone, without
        labels.

    A list of draws shares a row, one sample behind the other, and what is said of them stands in the same order. Then
    there are also segment_ids: (B, T) int64, which sample of its row a token belongs to, from 1; 0 is padding.

    A UserError is returned in place of the batch: raised here, in a worker, it would reach the user as a
    traceback.
    """

    def __init__(self, bos_id: int, pad_id: int, digests: bool = False):
        self.bos_id, self.pad_id, self.digests = bos_id, pad_id, digests

    def __call__(self, drawn: list[Draw | UserError | list[Draw | UserError]]) -> dict[str, Any] | UserError:
        packed = isinstance(drawn[0], list)
        draws = [draw for row in drawn for draw in row] if packed else drawn
        for draw in draws:
            if isinstance(draw, UserError):
                return draw
        items = [draw.item if isinstance(draw.item, Encoded) else self._empty(draw) for draw in draws]
        waiting = iter(items)
        rows = [list(islice(waiting, len(row) if packed else 1)) for row in drawn]
        segments = pad_sequence([_segments(row) for row in rows], batch_first=True)
        batch = {
            "input_ids": _pad(rows, "input_ids", self.pad_id),
            "attention_mask": segments.clamp(max=1),
            "labels": _pad(rows, "labels", IGNORE),
            "visual_targets_mask": _pad(rows, "visual_targets_mask", False),
        }
        if packed:
            batch["segment_ids"] = segments
        for name in (*VISUALS, "target_pixels", "sizes"):
            pixels = [getattr(item, name) for item in items if getattr(item, name) is not None]
            if pixels:
                batch[name] = joined(pixels) if name.endswith("pixel_values") else torch.cat(pixels)
        batch["sample_ids"] = [item.sample_id for item in items]
        batch["sources"] = [draw.source for draw in draws]
        batch["epochs"] = [draw.epoch for draw in draws]
        batch["positions"] = [draw.position for draw in draws]
        if self.digests:
            batch["digests"] = [digest(item) for item in items]
        batch["skipped"] = [asdict(draw.item) for draw in draws if isinstance(draw.item, Skipped)]
        return batch

    def _empty(self, draw: Draw) -> Encoded:
        ids = torch.tensor([self.bos_id])
        nothing = torch.zeros(1, dtype=torch.bool)
        id = draw.item.id if draw.item else ""
        return Encoded(ids, torch.full_like(ids, IGNORE), nothing, None, None, id, draw.source)


def digest(item: Encoded) -> str:
    """48 bits, in hexadecimal, of all that a sample teaches: ids, labels, targets, pixels or features."""
    hashed = xxh3_128()  # sha256 takes a third of a millisecond for a picture of 448 x 448, this a thirtieth of that
    for name in ("input_ids", "labels", "visual_targets_mask", *VISUALS):
        if (tensor := getattr(item, name)) is not None:
            hashed.update(f"{name}{tuple(tensor.shape)}".encode())
            tensor = tensor.movedim(1, -1) if name.endswith("pixel_values") else tensor  # as they lie in memory
            hashed.update(tensor.contiguous().view(torch.uint8).numpy())
    return hashed.hexdigest()[:12]


def _pad(rows: list[list[Encoded]], name: str, value: float) -> Tensor:
    """One tensor of the samples, row by row, padded on the right."""
    joined = [torch.cat([getattr(item, name) for item in row]) for row in rows]
    return pad_sequence(joined, batch_first=True, padding_value=value)


def _segments(row: list[Encoded]) -> Tensor:
    """1, 2, ... for the tokens of the samples of a row."""
    sizes = torch.tensor([len(item.input_ids) for item in row])
    return torch.arange(1, len(row) + 1).repeat_interleave(sizes)


def target_counts(batch: dict[str, Any]) -> tuple[int, int]:
    """Text and visual targets of a batch; the first position is never a target, nothing predicts it."""
    text = (batch["labels"][:, 1:] != IGNORE).sum()
    return int(text), int(batch["visual_targets_mask"][:, 1:].sum())
