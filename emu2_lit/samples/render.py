"""A readable view of an encoded sample, with what is learned set apart."""

from itertools import groupby
from typing import Any

from emu2_lit.model.special_tokens import FRAME, IMAGE
from emu2_lit.samples.encoding import IGNORE, Encoded


def spans(encoded: Encoded, processor: Any) -> list[tuple[str, bool]]:
    """The sample as (text, learned) in reading order; the slots of a picture are written as `<image>*64`."""
    tokenizer = processor.tokenizer
    learned = ((encoded.labels != IGNORE) | encoded.visual_targets_mask).tolist()
    pairs = zip(encoded.input_ids.tolist(), learned, strict=True)
    return [
        (_text([id for id, _ in run], tokenizer), flag)
        for flag, run in groupby(pairs, key=lambda pair: pair[1])
    ]


def marked(encoded: Encoded, processor: Any, opening: str = "⟦", closing: str = "⟧") -> str:
    """One string in which learned stretches stand between `opening` and `closing`."""
    return "".join(
        f"{opening}{text}{closing}" if learned else text for text, learned in spans(encoded, processor)
    )


def _text(ids: list[int], tokenizer: Any) -> str:
    slots = {tokenizer.token_to_id(name): name for name in (IMAGE, FRAME)}
    special = set(tokenizer.special_ids.values())
    pieces = []
    for id, run in groupby(ids, key=lambda id: id if id in special else None):
        run = list(run)
        if id is None:
            pieces.append(_plain(run, tokenizer))
        else:
            pieces.append(f"{slots[id]}*{len(run)}" if id in slots else tokenizer.id_to_token(id) * len(run))
    return "".join(pieces)


def _plain(ids: list[int], tokenizer: Any) -> str:
    """Text of ordinary pieces; a decoder drops the space of the first piece, which is shown here."""
    text = tokenizer.decode(ids, skip_special_tokens=False)
    starts_with_space = tokenizer.id_to_token(ids[0]).startswith("\u2581")
    return f" {text}" if starts_with_space and not text.startswith(" ") else text
