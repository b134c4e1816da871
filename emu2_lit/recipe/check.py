"""Does a resolved recipe fit the schema: known keys, right types, legal values."""

import types
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from difflib import get_close_matches
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from emu2_lit.recipe.schema import RANGES, Recipe

REQUIRED = "???"  # OmegaConf's mark of a value that the user still has to give
Problem = tuple[str, str]  # dotted key, what is wrong with it

NAMES = {
    int: "a whole number",
    float: "a number",
    str: "text",
    bool: "true or false",
    dict: "a section",
    list: "a list",
    type(None): "null",
}


def problems(value: Any, kind: Any = Recipe, key: str = "") -> Iterator[Problem]:
    """Everything in `value` (plain dicts, lists and scalars) that does not fit the type `kind`."""
    if isinstance(value, str) and value == REQUIRED:
        return
    wanted = next((member for member in union_members(kind) if _fits(value, member)), None)
    if wanted is None:
        yield key, f"expected {_describe(kind)}, got {_show(value)}{_nearest_choice(value, kind)}"
    elif is_dataclass(wanted):
        yield from _section_problems(value, wanted, key)
    elif get_origin(wanted) is list:
        for index, item in enumerate(value):
            yield from problems(item, get_args(wanted)[0], f"{key}.{index}")
    elif get_origin(wanted) is dict:
        for name, item in value.items():
            yield from problems(item, get_args(wanted)[1], _join(key, name))
    else:
        yield from _range_problems(value, key)


def required_keys(value: Any, key: str = "") -> list[str]:
    """Dotted keys whose value is still `???`."""
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    else:
        return [key] if value == REQUIRED else []
    return [found for name, item in items for found in required_keys(item, _join(key, name))]


def union_members(kind: Any) -> tuple:
    """The alternatives of a type: `int | None` gives (int, NoneType), any other type itself."""
    return get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)


def section_of(kind: Any) -> type | None:
    """The section that a field of this type holds, itself or as the items of a list."""
    for member in union_members(kind):
        inner = get_args(member)[0] if get_origin(member) is list else member
        if is_dataclass(inner):
            return inner
    return None


def _section_problems(value: dict, kind: type, key: str) -> Iterator[Problem]:
    hints = get_type_hints(kind)
    for name, item in value.items():
        if name in hints:
            yield from problems(item, hints[name], _join(key, name))
        else:
            yield _join(key, name), _unknown(str(name), list(hints), key)


def _unknown(name: str, legal: list[str], key: str) -> str:
    """Names the nearest legal key: a neighbour, or the same name in another section, or all neighbours."""
    near = [_join(key, match) for match in get_close_matches(name, legal, n=1)]
    elsewhere = [other for other in keys_of_schema() if other.split(".")[-1] == name]
    if nearest := near or elsewhere:
        return f"is not a key of a recipe; did you mean {nearest[0]}?"
    return f"is not a key of a recipe; legal here: {', '.join(legal)}"


def keys_of_schema(kind: type = Recipe, key: str = "") -> Iterator[str]:
    """Every dotted key of the schema; the items of a list stand as `0`."""
    for name, hint in get_type_hints(kind).items():
        yield _join(key, name)
        if inner := section_of(hint):
            is_list = any(get_origin(member) is list for member in union_members(hint))
            yield from keys_of_schema(inner, _join(key, f"{name}.0" if is_list else name))


def _fits(value: Any, kind: Any) -> bool:
    if is_dataclass(kind):
        return isinstance(value, dict)
    if get_origin(kind) in (list, dict):
        return isinstance(value, get_origin(kind))
    if get_origin(kind) is Literal:
        return value in get_args(kind)
    if isinstance(value, bool):
        return kind is bool
    if kind in (float, str) and isinstance(value, int | float):
        return True  # a name may look like a number
    return isinstance(value, kind)


def _range_problems(value: Any, key: str) -> Iterator[Problem]:
    name = ".".join(part for part in key.split(".") if not part.isdigit())
    if name not in RANGES or value is None:
        return
    low, high = RANGES[name]
    if not low <= value <= high:
        bounds = f"at least {low}" if high == float("inf") else f"a number from {low} to {high}"
        yield key, f"expected {bounds}, got {value}"


def _describe(kind: Any) -> str:
    return " or ".join(_describe_one(member) for member in union_members(kind))


def _describe_one(kind: Any) -> str:
    if is_dataclass(kind):
        return f"a section with keys {', '.join(option.name for option in fields(kind))}"
    if get_origin(kind) is list:
        return f"a list, each item {_describe(get_args(kind)[0])}"
    if get_origin(kind) is dict:
        return f"names, each with {_describe(get_args(kind)[1])}"
    if get_origin(kind) is Literal:
        return f"one of {', '.join(get_args(kind))}"
    return NAMES[kind]


def _nearest_choice(value: Any, kind: Any) -> str:
    literals = [member for member in union_members(kind) if get_origin(member) is Literal]
    choices = [choice for literal in literals for choice in get_args(literal)]
    near = get_close_matches(value, choices, n=1) if isinstance(value, str) else []
    return f"; did you mean {near[0]}?" if near else ""


def _show(value: Any) -> str:
    kind = NAMES.get(type(value), type(value).__name__)
    return f"{value!r} ({kind})" if value is not None else "null"


def _join(key: str, name: Any) -> str:
    return f"{key}.{name}" if key else str(name)
