"""What holds for every job of a user at a site: one file with keys of the recipe's `slurm` section."""

import os
from pathlib import Path
from typing import Any

import yaml

from emu2_lit.errors import UserError
from emu2_lit.recipe.check import problems
from emu2_lit.settings import SlurmSettings

VARIABLE = "EMU2_LIT_SLURM"


def path() -> Path:
    """$EMU2_LIT_SLURM, or slurm.yaml in the user's configuration folder."""
    if VARIABLE in os.environ:
        return Path(os.environ[VARIABLE]).expanduser()
    return Path(os.environ.get("XDG_CONFIG_HOME") or "~/.config").expanduser() / "emu2-lit" / "slurm.yaml"


def defaults() -> dict[str, Any]:
    """The file's values, to lie under a recipe's own; empty where there is no file.

    Raises:
        UserError: the file is named and not there, no YAML, or holds what no `slurm` section may.
    """
    file = path()
    if not file.exists() and VARIABLE not in os.environ:
        return {}
    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{file}: cannot be read as YAML: {error}") from None
    values = values.get("slurm", values) if isinstance(values, dict) else values
    if wrong := list(problems(values, SlurmSettings, "slurm")):
        raise UserError("\n".join(f"{file}: {key}: {message}" for key, message in wrong))
    return {"slurm": values}
