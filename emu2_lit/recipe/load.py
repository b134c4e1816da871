"""From a recipe's name or path, and the user's overrides, to a checked Recipe."""

from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from emu2_lit.errors import UserError
from emu2_lit.recipe import catalog
from emu2_lit.recipe.check import problems, required_keys
from emu2_lit.recipe.overrides import apply, covers, keys_of, written_out
from emu2_lit.recipe.rules import conflicts
from emu2_lit.recipe.schema import Recipe


def load(
    name: str | Path, overrides: list[str] | tuple[str, ...] = (), defaults: dict[str, Any] | None = None
) -> Recipe:
    """The checked recipe of a shipped name or a path, with `key=value` overrides.

    Args:
        defaults: values that hold where the recipe says nothing, such as a site's.

    Raises:
        UserError: lists every unknown key, wrong type, illegal or missing value and conflict, each with its file
            (or "command line"), the dotted key, and what is legal.
    """
    values = read(name, overrides, defaults)
    if missing := required_keys(values):
        needed = " ".join(f"{key}=..." for key in missing)
        raise UserError(f"{catalog.path(name)}: still to be given, there or on the command line: {needed}")
    recipe = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Recipe), values))
    if wrong := conflicts(recipe):
        raise UserError("\n".join(f"{catalog.path(name)}: {message}" for message in wrong))
    return recipe


def read(
    name: str | Path, overrides: list[str] | tuple[str, ...] = (), defaults: dict[str, Any] | None = None
) -> dict[str, Any]:
    """The resolved recipe as plain values, defaults included; `???` where a value is still to be given."""
    file = catalog.path(name)
    written = _read_yaml(file)
    values = _resolve(apply(written, overrides), catalog.name_of(file), file, defaults or {})
    overridden = keys_of(overrides)
    wrong = []
    for key, message in problems(values):
        in_file = _holds(written, key) and not covers(overridden, key)
        wrong.append(f"{file if in_file else 'command line'}: {key}: {message}")
    if wrong:
        raise UserError("\n".join(wrong))
    complete = OmegaConf.merge(OmegaConf.structured(Recipe), values)  # the lists' items get their defaults
    return OmegaConf.to_container(complete)


def _read_yaml(file: Path) -> dict[str, Any]:
    try:
        content = OmegaConf.to_container(OmegaConf.load(file))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise UserError(f"{file}{where}: not valid YAML: {error.problem}") from None
    except (yaml.YAMLError, OmegaConfBaseException, UnicodeDecodeError, OSError) as error:
        raise UserError(f"{file}: cannot be read as YAML: {error}") from None
    if not isinstance(content, dict):
        raise UserError(f"{file}: expected sections (model: ..., data: ...), got a list or a text")
    # A section whose every line is commented out reads as null, and means the defaults.
    return written_out({str(key): value for key, value in content.items() if value is not None})


def _resolve(given: dict[str, Any], name: str, file: Path, site: dict[str, Any]) -> dict[str, Any]:
    """Fill in defaults and the run's name and folder, then resolve `${...}`."""
    defaults = OmegaConf.to_container(OmegaConf.structured(Recipe))
    defaults["run"] |= {"name": name, "dir": "runs/${run.name}"}
    try:
        return OmegaConf.to_container(OmegaConf.merge(defaults, site, _without_null_run(given)), resolve=True)
    except TypeError:  # OmegaConf names no key where a list stands for a section
        lists = [key for key, value in given.items() if isinstance(value, list) and isinstance(defaults.get(key), dict)]
        raise UserError(f"{file} or command line: {', '.join(lists)}: expected a section, got a list") from None
    except OmegaConfBaseException as error:
        key = getattr(error, "full_key", None) or "a value"
        raise UserError(f"{file}: {key}: {str(error).splitlines()[0]}") from None


def _without_null_run(given: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(given.get("run"), dict):
        return given
    return given | {"run": {key: value for key, value in given["run"].items() if value is not None}}


def _holds(values: Any, key: str) -> bool:
    """Whether nested values have an entry for a dotted key."""
    for name in key.split("."):
        if isinstance(values, list) and name.isdigit() and int(name) < len(values):
            values = values[int(name)]
        elif isinstance(values, dict) and name in values:
            values = values[name]
        else:
            return False
    return True
