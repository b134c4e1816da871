import pytest

from emu2_lit.evaluation import exact_match, normalise


@pytest.mark.parametrize("text", ["Seven", " seven\n", "seven.", "SEVEN ."])
def test_case_space_and_a_final_period_do_not_count(text):
    assert normalise(text) == "seven"
    assert exact_match(text, "seven") and exact_match("seven", text)


def test_one_period_is_dropped_and_inner_ones_stay():
    assert normalise("3.5.") == "3.5"
    assert normalise("well..") == "well."


@pytest.mark.parametrize("prediction", ["", "seventeen", "the seven", "7"])
def test_anything_else_is_no_match(prediction):
    assert not exact_match(prediction, "seven")


def test_several_references():
    assert exact_match("Yes.", ["yes", "yeah"])
    assert not exact_match("no", ["yes", "yeah"])
