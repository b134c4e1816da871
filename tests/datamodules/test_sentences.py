import pytest

from datamodules.sentences import sentences


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("One. Two!  Three", ["One. ", "Two!  ", "Three"]),
        ('He said "no." She left.', ['He said "no." ', "She left."]),
        ("a line\n\n  another\n", ["a line\n\n  ", "another\n"]),
        ("3.5 of 7.0", ["3.5 of 7.0"]),
        ("一。二！三", ["一。", "二！", "三"]),
        ("  ", []),
    ],
)
def test_pieces_end_with_their_space(text, pieces):
    assert sentences(text) == pieces
    assert "".join(pieces) == text.lstrip()
