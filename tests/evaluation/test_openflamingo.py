import pytest

from emu2_lit.evaluation import openflamingo_answer, openflamingo_caption


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("red", "red"),
        ("red\nQuestion:what is it", "red"),
        (" a bus Short answer:bus", "a bus"),
        ("bread, butter", "bread"),
        ("1,000", "1,000"),
        ("2 Answer:3 Question:4", "2"),
        ("a short question", "a short question"),  # capitals count
        ("Question", ""),
    ],
)
def test_answer(text, expected):
    assert openflamingo_answer(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a dog.\nOutput:a cat", "a dog."),
        (' "a sign that says "stop""', "a sign that says stop"),
        ("a dog, a cat", "a dog, a cat"),
    ],
)
def test_caption(text, expected):
    assert openflamingo_caption(text) == expected
