"""A recipe as YAML, each key with its note."""

import os
from collections.abc import Iterator
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, get_type_hints

import yaml

from emu2_lit.recipe.check import section_of
from emu2_lit.recipe.schema import Recipe, notes


def save(recipe: Recipe, path: str | Path) -> None:
    """Write the recipe as YAML that `load` reads back as an equal one; the file appears whole or not."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.write_text(to_yaml(asdict(recipe)), encoding="utf-8")
    draft.replace(path)


def to_yaml(values: dict[str, Any]) -> str:
    """The YAML of a recipe's plain values, with the schema's note behind each key."""
    return "\n".join(_lines(values, Recipe)) + "\n"


def _lines(values: dict[str, Any], kind: type, indent: str = "") -> Iterator[str]:
    hints, comments = get_type_hints(kind), notes(kind)
    for option in fields(kind):
        name, value, inner = option.name, values[option.name], section_of(hints[option.name])
        comment = f"  # {comments[name]}" if name in comments else ""
        if isinstance(value, dict) and inner:
            yield f"{indent}{name}:{comment}"
            yield from _lines(value, inner, indent + "  ")
        elif inner and value:
            yield f"{indent}{name}:{comment}"
            for item in value:
                first, *others = _lines(item, inner, indent + "  ")
                yield f"{indent}- {first.lstrip()}"
                yield from others
        else:
            yield f"{indent}{name}: {_scalar(value)}{comment}"


def _scalar(value: Any) -> str:
    """One line of YAML for a scalar or a list of them."""
    style = '"' if isinstance(value, str) and "\n" in value else None  # the others would take several lines
    text = yaml.safe_dump(value, default_flow_style=True, default_style=style, width=float("inf"), allow_unicode=True)
    return text.removesuffix("\n").removesuffix("\n...")
