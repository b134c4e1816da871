import pytest

from emu2_lit.evaluation import short_answer


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Blue", "blue"),
        (" a dog.\nquestion: what", "dog"),
        ("it's a red bus. The bus is", "red bus"),
        ('surfing" short answer: skiing', "surfing"),
        ("bread, butter", "bread"),
        ("3.5", "3.5"),
        ("An apple.", "apple"),
        ("It is the end", "end"),
        ("the a team", "a team"),  # openings are tried in order, each once: "a " came before "the "
        ("\nanswer", ""),
    ],
)
def test_published_rule(text, expected):
    assert short_answer(text) == expected
