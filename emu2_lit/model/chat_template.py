"""The chat template of Emu2-Chat, as its published inference code writes it.

{system} [USER]: {question} [ASSISTANT]: {answer}</s>[USER]: {question} [ASSISTANT]:
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from emu2_lit.errors import UserError
from emu2_lit.model.segments import Segment
from emu2_lit.model.special_tokens import ASSISTANT, EOS, GROUNDING, USER, VIDEO

SYSTEM_MESSAGES = {
    "comprehensive": "You are a helpful assistant, dedicated to delivering comprehensive and meticulous responses.",
    "concise": "You are a helpful assistant, dedicated to provide concise and efficient answers.",
}
ROLES = ("system", "user", "assistant")


@dataclass
class Turn:
    """What one role says. A system turn comes first, if at all; then users and assistants take turns."""

    role: str
    segments: list[Segment]


def chat_segments(turns: Sequence[Turn], grounding: bool = False) -> list[Segment]:
    """The native prompt. After a last user turn it ends where the answer begins.

    The role's colon is never learned; of a learned answer the space before it and the `</s>` after it are.

    Args:
        grounding: ask for boxes: `<grounding>` before the last answer, and the concise system message by default.
    Raises:
        UserError: turns do not alternate.
    """
    turns = list(turns)
    if turns and turns[0].role == "system":
        system = turns.pop(0).segments
    else:
        system = [Segment("text", SYSTEM_MESSAGES["concise" if grounding else "comprehensive"])]
    out = [*system, Segment("text", " " if system else "")]
    for place, turn in enumerate(turns):
        expected = "assistant" if place % 2 else "user"
        if turn.role != expected:
            raise UserError(f"turn {place + 1} is of the {turn.role}, expected one of the {expected}")
        if turn.role == "user":
            out += [Segment("token", USER), Segment("text", ": "), *turn.segments, Segment("text", " ")]
        else:
            out += _answer(turn.segments, grounding and place == len(turns) - 1)
    if turns and turns[-1].role == "user":
        out += [Segment("token", ASSISTANT), Segment("text", ":")]
        out += [Segment("token", GROUNDING)] if grounding else []
    return out


def _answer(segments: list[Segment], grounding: bool) -> list[Segment]:
    learn = any(segment.learn for segment in segments)
    head = [Segment("token", ASSISTANT), Segment("text", ":")]
    head += [Segment("token", GROUNDING)] if grounding else []
    return [*head, Segment("text", " ", learn=learn), *segments, Segment("token", EOS, learn=learn)]


def messages_to_turns(messages: Sequence[dict[str, Any]], learn_answers: bool = False) -> list[Turn]:
    """Messages with a `role` and `content` (a text, or a list of parts) as turns.

    Parts: `{"type": "text", "text": ...}`, `{"type": "image"}` or `{"type": "image_url"}`, and
    `{"type": "video", "frames": n}` with n, or as many as a list `video` or `frames` holds, frames.

    Raises:
        UserError: an unknown role or part, named with its place.
    """
    turns = []
    for place, message in enumerate(messages):
        role = message.get("role")
        if role not in ROLES:
            raise UserError(f"message {place + 1}: role {role!r} is none of {', '.join(ROLES)}")
        content = message.get("content") or ""
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
        if not isinstance(parts, list | tuple) or not all(isinstance(part, dict) for part in parts):
            raise UserError(f"message {place + 1}: content is neither a text nor a list of parts")
        segments = [segment for part in parts for segment in _part(part, place)]
        if learn_answers and role == "assistant":
            segments = [replace(segment, learn=True) for segment in segments]
        turns.append(Turn(role, segments))
    return turns


def _part(part: dict[str, Any], place: int) -> list[Segment]:
    kind = part.get("type")
    if kind == "text":
        if not isinstance(part.get("text"), str):
            raise UserError(f"message {place + 1}: a text part without its `text`")
        return [Segment("text", part["text"])]
    if kind in ("image", "image_url"):
        return [Segment("image")]
    if kind == "video":
        return [Segment("token", VIDEO), *[Segment("frame")] * _frames(part, place)]
    raise UserError(f"message {place + 1}: a part of type {kind!r}; text, image, image_url and video are known")


def _frames(part: dict[str, Any], place: int) -> int:
    for key in ("num_frames", "frames", "video"):
        value = part.get(key)
        if isinstance(value, int):
            return value
        if isinstance(value, list | tuple):
            return len(value)
    raise UserError(f"message {place + 1}: a video part needs `num_frames`, or its frames as a list")
