from dataclasses import replace

import pytest

from emu2_lit.errors import UserError
from emu2_lit.evaluation.prompts import build, chat, continuation
from emu2_lit.evaluation.question import Question
from emu2_lit.model.chat_template import SYSTEM_MESSAGES

QUERY = Question("q", ("query.png",), "what is it?", ("a cat",))
FIRST = Question("1", ("one.png",), "what colour is it?", ("red", "crimson"))
SECOND = Question("2", ("two.png",), "who is it?", ("a dog",))
NAMED = Question("3", ("three.png",), "", ("dax",))


def text(parts) -> str:
    return "".join(part.value if part.kind == "text" else f"[{part.value}]" for part in parts)


def test_the_papers_few_shot_prompt():
    assert text(build(QUERY, [FIRST, SECOND])) == (
        "[one.png]based on the picture, what colour is it? short answer: red. "
        "[two.png]based on the picture, who is it? short answer: a dog. "
        "[query.png]based on the picture, what is it? short answer:"
    )


def test_the_papers_zero_shot_prompt():
    expected = "[query.png]based on the picture, answer in one word or phrase. what is it? short answer:"
    assert text(build(QUERY)) == expected


def test_flamingos_zero_shot_keeps_the_words_of_its_demonstrations():
    assert text(build(QUERY, [FIRST, SECOND], zero_shot="text")) == (
        "based on the picture, what colour is it? short answer: red. "
        "based on the picture, who is it? short answer: a dog. "
        "[query.png]based on the picture, what is it? short answer:"
    )


def test_names_are_bound_to_pictures_without_a_question():
    naming = replace(NAMED, id="4", images=("four.png",), answers=("blicket.",))
    assert text(build(replace(QUERY, text=""), [NAMED, naming])) == "[three.png]dax.[four.png]blicket.[query.png]"


def test_several_pictures_stand_before_the_question():
    assert text(build(replace(QUERY, images=("a", "b")))).startswith("[a][b]based on")


def test_a_question_about_no_picture_does_not_speak_of_one():
    assert text(build(replace(QUERY, images=()))) == "what is it? short answer:"


def test_openflamingos_prompts():
    assert text(build(QUERY, [FIRST], "openflamingo")) == (
        "[one.png]Question:what colour is it? Short answer:red\n[query.png]Question:what is it? Short answer:"
    )
    assert text(build(replace(QUERY, text=""), [NAMED], "openflamingo")) == "[three.png]Output:dax\n[query.png]Output:"
    assert text(build(QUERY, (), "openflamingo")) == "[query.png]Question:what is it? Short answer:"


def test_a_benchmark_may_have_its_own_wording():
    own = "is an image with: 'hello' written on it. Is it hateful? Answer:"
    meme, other = (replace(one, extra={"prompts": {"openflamingo": own}}) for one in (QUERY, FIRST))
    assert text(build(meme, [other], "openflamingo")) == f"[one.png]{own}red\n[query.png]{own}"
    assert "is an image with" not in text(build(meme, [other]))


def test_the_sentence_that_emu2_chat_was_trained_with():
    assert text(build(QUERY, (), "llava")) == (
        "[query.png]what is it?\nAnswer the question using a single word or phrase."
    )


def test_the_same_for_a_chat_model():
    parts = chat(QUERY, [FIRST])
    assert [part.role for part in parts] == ["system"] + ["user"] * 4
    assert parts[0].value == SYSTEM_MESSAGES["concise"]
    assert text(parts[1:]) == text(build(QUERY, [FIRST]))


def test_how_an_answer_goes_on():
    assert continuation(QUERY, "red") == " red" and continuation(QUERY, "red", "openflamingo") == "red"
    assert continuation(NAMED, "dax") == "dax"
    assert continuation(NAMED, "dax", is_chat=True) == " dax"


def test_braces_of_users_are_text():
    asked = replace(QUERY, text="what is {0} in {question}?")
    assert "what is {0} in {question}? short" in text(build(asked))


def test_what_is_refused():
    with pytest.raises(UserError, match="emu2, openflamingo"):
        build(QUERY, dialect="emu3")
    with pytest.raises(UserError, match="1: a demonstration without an answer"):
        build(QUERY, [replace(FIRST, answers=())])
