"""Options of commands that load a result: what its weights go on top of, and what files of weights do not say."""

import argparse
from typing import get_args

from emu2_lit.recipe.schema import Preset


def add_weight_options(command: argparse.ArgumentParser) -> None:
    """`--base`, `--preset` and `--tokenizer`."""
    command.add_argument("--base", metavar="WEIGHTS", help="what an adapter goes on top of; default what it records")
    command.add_argument("--preset", choices=get_args(Preset), help="sizes of a native file")
    command.add_argument("--tokenizer", metavar="FILE", help="tokenizer.model of a native file")


def chosen(args: argparse.Namespace) -> dict[str, str | None]:
    """The arguments of `load_run` that these options give."""
    return {name: getattr(args, name) for name in ("base", "preset", "tokenizer")}


def positive(text: str) -> int:
    """An argument that counts something."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {number}")
    return number
