"""`key=value` arguments, list indices included."""

import pytest

from emu2_lit.errors import UserError
from emu2_lit.recipe.overrides import apply, split


@pytest.mark.parametrize(
    ("text", "value"),
    [("3", 3), ("1e-4", 1e-4), ("true", True), ("null", None), ("[a, b]", ["a", "b"]), ("a=b", "a=b"), ("0,1", "0,1")],
)
def test_values_are_yaml(text, value):
    assert split(f"section.key={text}") == ("section.key", value)


def test_sections_and_items_are_reached_and_made():
    values = {"data": {"sources": [{"path": "a", "weight": 1}]}}
    changed = apply(values, ["data.sources.0.path=b", "data.sources.1.path=c", "trainer.max_steps=3", "run[dir]=d"])
    assert changed["data"]["sources"] == [{"path": "b", "weight": 1}, {"path": "c"}]
    assert changed["trainer"] == {"max_steps": 3} and changed["run"] == {"dir": "d"}
    assert values == {"data": {"sources": [{"path": "a", "weight": 1}]}}


def test_lists_are_made():
    assert apply({}, ["data.sources.0.path=a"]) == {"data": {"sources": [{"path": "a"}]}}


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("data.sources.2.path=c", "expected an index from 0 to 1, got '2'"),
        ("data.sources.path=c", "expected an index from 0 to 1, got 'path'"),
        ("trainer.max_steps", "expected key=value"),
        ("=3", "expected key=value"),
        ("a..b=3", "expected key=value"),
        ("model.preset=[tiny", "not valid YAML"),
    ],
)
def test_mistakes(override, expected):
    with pytest.raises(UserError, match="^command line: ") as caught:
        apply({"data": {"sources": [{"path": "a"}]}}, [override])
    assert expected in str(caught.value)
