import pytest

from emu2_lit.errors import UserError
from emu2_lit.evaluation import normalise_vqa, vqa_accuracy
from emu2_lit.evaluation.vqa import strip_punctuation


def annotated(matches: int, of: int = 10) -> list[str]:
    """Answers of which so many are "yes", and the others differ from each other."""
    return ["yes"] * matches + [f"other {number}" for number in range(of - matches)]


@pytest.mark.parametrize("dialect", ["official", "openflamingo"])
@pytest.mark.parametrize(("matches", "expected"), [(0, 0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1), (7, 1), (10, 1)])
def test_ten_answers(matches, expected, dialect):
    assert vqa_accuracy("yes", annotated(matches), dialect) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("matches", "of", "expected"),
    [
        (1, 1, 0),  # nobody else is left to agree
        (3, 3, 2 / 3),  # two others each time
        (4, 4, 1),
        (3, 5, 4 / 5),  # three times 2/3, twice 1; min(1, n/3) would say 1
        (1, 5, 4 / 15),  # once 0, four times 1/3
    ],
)
def test_fewer_answers_go_through_the_loop(matches, of, expected):
    assert vqa_accuracy("yes", annotated(matches, of)) == pytest.approx(expected)


def test_annotators_who_agree_are_left_out_one_by_one():
    records = [{"answer": answer, "answer_confidence": "yes"} for answer in ["red"] * 5 + ["blue"] * 5]
    by_inequality = 0.0
    for left_out in records:  # the common mistake: all five equal records vanish at once
        others = [record for record in records if record != left_out]
        by_inequality += min(1.0, sum(record["answer"] == "red" for record in others) / 3) / len(records)
    assert by_inequality == pytest.approx(0.5)
    assert vqa_accuracy("red", [record["answer"] for record in records]) == 1.0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A red, blue bus", "red blue bus"),  # the mark touches a space: it goes
        ("yes/no", "yes no"),  # else a space takes its place
        ("a- b-c", "bc"),  # it touches a space once: it goes everywhere
        ("1,000 red-white", "1000 redwhite"),  # digits grouped by a comma: all marks go
        ("1,a", "1"),  # the comma is no group; the article goes
        ("3.5.", "3.5"),
        ("U.S.A.", "usa"),
        ("3.a", "3a"),  # a digit before a period keeps nothing
        ("10:30", "10:30"),
        ("dog's", "dog's"),
        ("Two dogs and zero cats", "2 dogs and 0 cats"),
        ("none", "0"),
        ("eleven", "eleven"),
        ("the", ""),
        ("red\nbus\tstop ", "red bus stop"),
        ("DONT", "don't"),
        ("couldntve", "couldntve"),  # two apostrophes are missing
        ("couldnt've couldn'tve", "couldn't've couldn't've"),
        ("y'allll", "y'all'll"),
        ("oclock twas maam", "o'clock 'twas ma'am"),
        ("somebody'd", "somebodyd"),
        ("im ive shes", "im ive shes"),  # never restored
        ("id shed well", "id shed well"),  # words of their own
    ],
)
def test_normal_form(text, expected):
    assert normalise_vqa(text) == expected


def test_thirty_two_periods_go():
    assert strip_punctuation("." * 40) == "." * 8
    assert strip_punctuation("a." * 32) == "a" * 32


def test_official_strips_punctuation_only_from_people_who_disagree():
    assert vqa_accuracy("dog", ["dog."] * 9 + ["cat"]) == 1.0
    assert vqa_accuracy("dog", ["dog."] * 10) == 0.0
    assert vqa_accuracy("dog", ["the dog"] * 3 + ["cat"] * 7) == 0.0
    assert vqa_accuracy("the dog", ["the dog"] * 10) == 0.0  # the prediction loses its article in any case
    assert vqa_accuracy("two", ["2"] * 10) == 1.0


def test_openflamingo_normalises_both_sides_always():
    assert vqa_accuracy("dog", ["Dog."] * 10, "openflamingo") == 1.0
    assert vqa_accuracy("dog", ["the dog"] * 3 + ["cat"] * 7, "openflamingo") == pytest.approx(0.9)
    assert vqa_accuracy("2", ["two"] * 10, "openflamingo") == 1.0


def test_stemming_is_the_callers_choice():
    answers = ["dogs"] * 10
    assert vqa_accuracy("dog", answers) == 0.0
    assert vqa_accuracy("dog", answers, stem=lambda text: text.removesuffix("s")) == 1.0


def test_refused():
    with pytest.raises(UserError, match="test split"):
        vqa_accuracy("yes", [])
    with pytest.raises(UserError, match="official, openflamingo"):
        vqa_accuracy("yes", ["yes"], "lmms")
