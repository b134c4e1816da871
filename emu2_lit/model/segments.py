"""A prompt as a list of pieces: plain text, special tokens, picture slots. What is learned is marked on the piece."""

import re
from dataclasses import dataclass
from typing import Literal

from emu2_lit.model.special_tokens import (
    ADDED_TOKENS,
    BOS,
    CHAT_TOKENS,
    EOS,
    IMAGE_PLACEHOLDER,
    UNK,
    VIDEO_PLACEHOLDER,
)


@dataclass(frozen=True)
class Segment:
    """One piece of a prompt.

    Attributes:
        kind: `text` is plain text, special strings inside it are not read as tokens; `token` is one special token;
            `image` is one still picture, `[IMG]`, n_query slots, `[/IMG]`; `frame` one video frame, likewise.
        text: the text, or the token's string.
        learn: whether the model is to predict it.
    """

    kind: Literal["text", "token", "image", "frame"]
    text: str = ""
    learn: bool = False


_PLACEHOLDERS = {IMAGE_PLACEHOLDER: "image", VIDEO_PLACEHOLDER: "frame"}


def render(segments: list[Segment]) -> str:
    """The prompt string, with placeholders for pictures."""
    names = {kind: text for text, kind in _PLACEHOLDERS.items()}
    return "".join(names.get(segment.kind, segment.text) for segment in segments)


def parse_prompt(text: str, chat: bool = True) -> list[Segment]:
    """Read a raw prompt string: special strings become tokens, placeholders become slots."""
    segments = []
    for piece in _special_pattern(chat).split(text):
        if piece in _PLACEHOLDERS:
            segments.append(Segment(_PLACEHOLDERS[piece]))
        elif piece in _specials(chat):
            segments.append(Segment("token", piece))
        elif piece:
            segments.append(Segment("text", piece))
    return segments


def _specials(chat: bool) -> frozenset[str]:
    return frozenset((BOS, EOS, UNK, *ADDED_TOKENS, *(CHAT_TOKENS if chat else ())))


def _special_pattern(chat: bool) -> re.Pattern[str]:
    longest_first = sorted((*_specials(chat), *_PLACEHOLDERS), key=len, reverse=True)
    return re.compile(f"({'|'.join(map(re.escape, longest_first))})")
