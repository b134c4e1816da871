"""A readable view of an encoded sample, with what is learned set apart."""

from itertools import groupby
from typing import Any

from emu2_lit.model.special_tokens import FRAME, IMAGE
from emu2_lit.samples.encoding import IGNORE, Encoded


def spans(encoded: Encoded, processor: Any) -> list[tuple[str, bool]]:
    """The sample as (text, learned) in reading order; the slots of a picture are written as `<image>*64`."""
    learned = ((encoded.labels != IGNORE) | encoded.visual_targets_mask).tolist()
    pieces = _pieces(encoded.input_ids.tolist(), learned, processor.tokenizer)
    return [("".join(text for text, _ in run), flag) for flag, run in groupby(pieces, key=lambda piece: piece[1])]


def marked(encoded: Encoded, processor: Any, opening: str = "⟦", closing: str = "⟧") -> str:
    """One string in which learned stretches stand between `opening` and `closing`."""
    return "".join(f"{opening}{text}{closing}" if learned else text for text, learned in spans(encoded, processor))


def _pieces(ids: list[int], learned: list[bool], tokenizer: Any) -> list[tuple[str, bool]]:
    """Runs of one special token, and runs of ordinary tokens, each learned or not."""
    specials = {id: token for token, id in tokenizer.special_ids.items()}
    pieces, after_special = [], True
    for (token, flag), run in groupby(
        zip(ids, learned, strict=True), key=lambda pair: (specials.get(pair[0]), pair[1])
    ):
        run_ids = [id for id, _ in run]
        if token is None:
            text = _plain(run_ids, tokenizer, after_special)
        else:
            text = f"{token}*{len(run_ids)}" if token in (IMAGE, FRAME) else token * len(run_ids)
        pieces.append((text, flag))
        after_special = token is not None
    return pieces


def _plain(ids: list[int], tokenizer: Any, after_special: bool) -> str:
    """Text of ordinary tokens; behind a special token the first space is SentencePiece's own, not the text's."""
    spaced = tokenizer.id_to_token(ids[0]).startswith("\u2581") and not after_special
    return " " * spaced + tokenizer.decode(ids, skip_special_tokens=False).removeprefix(" ")
