import pytest

from emu2_lit.errors import UserError
from emu2_lit.evaluation import answer_is_right, cut_answer, judge_question, picture_is_right


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (" dax. The next", "dax"),
        ("\n dax\nblicket", "dax"),
        ("dax.\nblicket", "dax."),  # with a line break the period stays
        ("3.5", "3"),
        ("", ""),
    ],
)
def test_head_of_a_reply(text, expected):
    assert cut_answer(text) == expected


@pytest.mark.parametrize(
    ("task", "reply", "answer", "right"),
    [
        ("open_mi", "Dax. This is", "dax", True),
        ("open_mi", "a dax", "dax", False),
        ("clevr", "2", "2", True),
        ("clevr", "there are 2", "2", False),
        ("textocr", "STOP\nand", "stop", True),
        ("operator_induction", "the answer is 12", "12", True),
        ("operator_induction", "12 or 13", "13", False),
        ("operator_induction", "007", "7", True),
        ("operator_induction", "-3", "3", False),
        ("operator_induction", "unknown", "3", False),
        ("operator_induction_interleaved", "9.", "9", True),
        ("matching_mi", "Yes, they do", "yes", True),
        ("matching_mi", "no", "Yes", False),
        ("matching_mi", "perhaps", "no", True),  # without a yes
        ("matching_mi", "yes and no", "no", False),
    ],
)
def test_rule_of_each_task(task, reply, answer, right):
    assert answer_is_right(task, reply, answer) is right


def test_a_judge_looks_at_pictures():
    asked = []

    def judge(picture, question):
        asked.append((picture, question))
        return picture == "good"

    assert picture_is_right("open_t2i_mi", "good", "a lion", judge) is True
    assert picture_is_right("fast_count_t2i", "bad", "two dogs", judge) is False
    assert asked[0] == ("good", "Decide whether the image contains a lion. Answer with yes or no.")
    assert asked[1] == ("bad", judge_question("two dogs"))


def test_unknown_tasks_are_refused():
    with pytest.raises(UserError, match="open_mi, clevr"):
        answer_is_right("open_t2i_mi", "a", "a")
    with pytest.raises(UserError, match="open_t2i_mi, fast_attr_t2i"):
        picture_is_right("clevr", None, "a", lambda picture, question: True)
