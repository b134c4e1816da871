"""`key=value` arguments of the command line: `trainer.max_steps=40 data.sources.0.path=my.json`."""

from collections.abc import Collection, Iterable
from copy import deepcopy
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from emu2_lit.errors import UserError

SHORT = {"resume": "resume.checkpoint"}  # sections that may be given as the value of their first key


def apply(values: dict[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """`values` with the overrides set; missing sections are made, and an index at a list's end appends."""
    values = deepcopy(values)
    for override in overrides:
        key, value = split(override)
        _set(values, key, value)
    return values


def keys_of(overrides: Iterable[str]) -> set[str]:
    """The dotted keys that the overrides set."""
    return {split(override)[0] for override in overrides}


def split(override: str) -> tuple[str, Any]:
    """The dotted key and the value, read as YAML (`null`, `true`, `1e-4`, `[a, b]`)."""
    key, equals, text = override.partition("=")
    key = key.strip().replace("[", ".").replace("]", "")
    if not equals or not all(key.split(".")):
        raise UserError(f"command line: {override!r}: expected key=value, such as trainer.max_steps=40")
    try:
        value = OmegaConf.to_container(OmegaConf.from_dotlist([f"value={text}"]))["value"]
        return (key if isinstance(value, dict) else SHORT.get(key, key)), value
    except (yaml.YAMLError, OmegaConfBaseException) as error:
        raise UserError(f"command line: {key}: {text!r} is not valid YAML: {error}") from None


def written_out(values: dict[str, Any]) -> dict[str, Any]:
    """Sections that are given in short, as `resume: never`, as what they stand for."""
    short = {key: value for key, value in values.items() if key in SHORT and not isinstance(value, dict)}
    return values | {key: {SHORT[key].removeprefix(f"{key}."): value} for key, value in short.items()}


def covers(given: Collection[str], key: str) -> bool:
    """Whether the key, or what it lies in, is among the given ones."""
    parts = key.split(".")
    return any(".".join(parts[:end]) in given for end in range(1, len(parts) + 1))


def _set(values: dict[str, Any], key: str, value: Any) -> None:
    *parents, last = key.split(".")
    node: Any = values
    for done, (name, following) in enumerate(zip(parents, key.split(".")[1:], strict=True)):
        where = ".".join(parents[:done])
        child = _child(node, name, where, key)
        if not isinstance(child, dict | list):
            child = [] if following.isdigit() else {}
            _put(node, name, child, where, key)
        node = child
    _put(node, last, value, ".".join(parents), key)


def _child(node: Any, name: str, where: str, key: str) -> Any:
    if isinstance(node, dict):
        return node.get(name)
    index = _index(node, name, where, key)
    return node[index] if index < len(node) else None


def _put(node: Any, name: str, value: Any, where: str, key: str) -> None:
    if isinstance(node, dict):
        node[name] = value
        return
    index = _index(node, name, where, key)
    node[index : index + 1] = [value]


def _index(node: list, name: str, where: str, key: str) -> int:
    if not name.isdigit() or int(name) > len(node):
        raise UserError(
            f"command line: {key}: {where} is a list; expected an index from 0 to {len(node)}, got {name!r}"
        )
    return int(name)
