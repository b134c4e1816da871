"""The rules of VL-ICL Bench (https://arxiv.org/abs/2403.13164): what counts as right in each of its tasks."""

import re
from collections.abc import Callable
from typing import Any

from emu2_lit.errors import UserError

Judge = Callable[[Any, str], bool]  # (picture, question) -> whether the answer is yes

_INTEGER = re.compile(r"-?\d+")


def cut_answer(text: str) -> str:
    """The answer at the head of a reply: its first line where it has several, else what stands before a period."""
    text = text.strip()
    return text.split("\n" if "\n" in text else ".", 1)[0].strip()


def answer_is_right(task: str, reply: str, answer: str) -> bool:
    """Whether the reply to a question of a task with text answers is right. Case does not count.

    Names, counts and words in pictures must equal the answer; of a sum the first integer of the reply counts; whether
    two pictures match is answered by "yes", or by anything without it.

    Raises:
        UserError: not a task with text answers.
    """
    if task not in _TEXT_RULES:
        raise UserError(f"VL-ICL: {task!r} is not a task with text answers; those are {', '.join(_TEXT_RULES)}.")
    return _TEXT_RULES[task](cut_answer(reply).lower(), answer.strip().lower())


def judge_question(thing: str) -> str:
    """What the judge of generated pictures is asked."""
    return f"Decide whether the image contains {thing}. Answer with yes or no."


def picture_is_right(task: str, picture: Any, answer: str, judge: Judge) -> bool:
    """Whether a generated picture shows the answer, in the judge's view. `cobsat` asks for two things at once: see
    `emu2_lit.evaluation.cobsat`.

    Raises:
        UserError: not a task with generated pictures.
    """
    if task not in PICTURE_TASKS:
        raise UserError(f"VL-ICL: {task!r} is not a task with pictures; those are {', '.join(PICTURE_TASKS)}.")
    return bool(judge(picture, judge_question(answer)))


def _same(reply: str, answer: str) -> bool:
    return reply == answer


def _same_integer(reply: str, answer: str) -> bool:
    found = _INTEGER.search(reply)
    return found is not None and int(found[0]) == int(answer)


def _same_verdict(reply: str, answer: str) -> bool:
    return ("yes" in reply) == (answer == "yes")


_TEXT_RULES: dict[str, Callable[[str, str], bool]] = {
    "open_mi": _same,
    "clevr": _same,
    "textocr": _same,
    "operator_induction": _same_integer,
    "operator_induction_interleaved": _same_integer,
    "matching_mi": _same_verdict,
}
TEXT_TASKS = tuple(_TEXT_RULES)
PICTURE_TASKS = ("open_t2i_mi", "fast_attr_t2i", "fast_count_t2i")
