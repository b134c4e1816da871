"""How a query and its demonstrations are worded.

Sources: `emu2`: the supplement of the paper, section E, and the README of the published base model; `openflamingo`:
the evaluation of open_flamingo; `llava`: LLaVA-1.5's output control sentence, which Emu2-Chat was trained with.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from emu2_lit.errors import UserError
from emu2_lit.evaluation.question import Question
from emu2_lit.model.chat_template import SYSTEM_MESSAGES
from emu2_lit.samples.sample import Part

ZeroShot = Literal["true", "text"]
TEXT_DEMONSTRATIONS = 2  # Flamingo's "0-shot"


@dataclass(frozen=True)
class Dialect:
    """One wording; the pictures of an item stand before it.

    Attributes:
        query: a question up to where its answer begins; `pictureless` is the same about no picture, `zero_shot` the
            same without any demonstration.
        naming: stands for the question in captions and naming tasks, which ask nothing.
        space: between question and answer.
        join: between items that ask; `naming_join` between items that do not.
    """

    query: str
    pictureless: str
    zero_shot: str
    naming: str
    space: str
    join: str
    naming_join: str


# open_flamingo ends a demonstration with a token of its own, which Emu2 has never seen: left out. In any dialect,
# spaces and line breaks beside a picture do not survive Emu2's tokenizer.
DIALECTS = {
    "emu2": Dialect(
        query="based on the picture, {question} short answer:",
        pictureless="{question} short answer:",
        zero_shot="based on the picture, answer in one word or phrase. {question} short answer:",
        naming="", space=" ", join=". ", naming_join=".",
    ),
    "openflamingo": Dialect(
        query="Question:{question} Short answer:",
        pictureless="Question:{question} Short answer:",
        zero_shot="Question:{question} Short answer:",
        naming="Output:", space="", join="\n", naming_join="\n",
    ),
    "llava": Dialect(
        query="{question}\nAnswer the question using a single word or phrase.",
        pictureless="{question}\nAnswer the question using a single word or phrase.",
        zero_shot="{question}\nAnswer the question using a single word or phrase.",
        naming="", space=" ", join="\n", naming_join="\n",
    ),
}  # fmt: skip


def shots_name(shots: int, zero_shot: ZeroShot = "true") -> str:
    """How a number of shots is reported: Flamingo's 0-shot, which reads demonstrations, is `0_text`."""
    return "0_text" if shots == 0 and zero_shot == "text" else str(shots)


def build(
    question: Question, demonstrations: Sequence[Question] = (), dialect: str = "emu2", zero_shot: ZeroShot = "true"
) -> tuple[Part, ...]:
    """A document that ends where the answer begins.

    A benchmark that a dialect words in a way of its own (Hateful Memes in open_flamingo) says so in its questions:
    `extra["prompts"]`, dialect -> everything between the pictures and the answer.

    Args:
        demonstrations: in order; the first of their answers is shown.
        zero_shot: `text`: they are shown without their pictures (Flamingo's 0-shot, with two of them).
    Raises:
        UserError: an unknown dialect, or a demonstration without an answer.
    """
    wording = _dialect(dialect)
    parts: list[Part] = []
    for shown in demonstrations:
        if zero_shot == "true":
            parts += _pictures(shown)
        parts.append(Part("text", _ask(shown, dialect, first=False) + _answer(shown, wording)))
    parts += _pictures(question)
    parts.append(Part("text", _ask(question, dialect, first=not demonstrations)))
    return tuple(part for part in parts if part.kind != "text" or part.value)


def chat(
    question: Question,
    demonstrations: Sequence[Question] = (),
    dialect: str = "emu2",
    zero_shot: ZeroShot = "true",
    system: str = "concise",
) -> tuple[Part, ...]:
    """The same as what a user says to Emu2-Chat, behind the system message of its short answers (paper, 2.3.1)."""
    said = (replace(part, role="user") for part in build(question, demonstrations, dialect, zero_shot))
    return (Part("text", SYSTEM_MESSAGES[system], "system"), *said)


def continuation(question: Question, answer: str, dialect: str = "emu2", is_chat: bool = False) -> str:
    """An answer as the text that goes on from the prompt."""
    return (" " if is_chat else _space(question, _dialect(dialect))) + answer


def _dialect(name: str) -> Dialect:
    if name not in DIALECTS:
        raise UserError(f"prompt dialect {name!r}: one of {', '.join(DIALECTS)}")
    return DIALECTS[name]


def _pictures(question: Question) -> list[Part]:
    return [Part("image", image) for image in question.images]


def _ask(question: Question, dialect: str, first: bool) -> str:
    wording, own = _dialect(dialect), question.extra.get("prompts", {})
    if dialect in own:
        return own[dialect]
    if not question.text:
        return wording.naming
    template = wording.pictureless if not question.images else wording.zero_shot if first else wording.query
    return template.replace("{question}", question.text)


def _answer(shown: Question, wording: Dialect) -> str:
    if not shown.answers:
        raise UserError(f"{shown.id}: a demonstration without an answer; take the support from an annotated split")
    join = wording.join if shown.text else wording.naming_join
    answer = shown.answers[0].strip()
    return _space(shown, wording) + (answer.removesuffix(".") if join.startswith(".") else answer) + join


def _space(question: Question, wording: Dialect) -> str:
    return wording.space if question.text else ""
