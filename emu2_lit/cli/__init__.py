"""The command `emu2-lit`. Each group of commands is one file; heavy libraries load only in those that need them.

Exit status: 0 done, 2 the user's input is wrong (one message, no traceback), 130 interrupted, 1 anything else, and
where `data compare` finds a difference.
"""

import argparse
import io
import os
import sys
from collections.abc import Sequence

from emu2_lit import __version__
from emu2_lit.cli import chat, data, evaluate, export, fit, generate, plan, recipes, slurm, weights
from emu2_lit.cli.quiet import hush
from emu2_lit.errors import UserError
from emu2_lit.signals import StopRequested

USER_ERROR, INTERRUPTED = 2, 130

# Threads of torch that wait for work spin by default, and take the cores from whatever else runs on the machine:
# a small model on two busy cores trains several times slower. Must be set before torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def parser() -> argparse.ArgumentParser:
    """The command line; each command sets `command`, a function of the parsed arguments to the exit status."""
    root = argparse.ArgumentParser(prog="emu2-lit", description="Fine-tune Emu2 from a recipe, and talk to the result.")
    root.add_argument("--version", action="version", version=f"emu2-lit {__version__}")
    commands = root.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for group in (recipes, plan, fit, evaluate, chat, generate, export, weights, data, slurm):
        group.register(commands)
    return root


def _parse(root: argparse.ArgumentParser, argv: Sequence[str] | None) -> argparse.Namespace:
    """argparse gives up on `key=value` behind an option: `submit chat/lora --dry-run trainer.devices=8`."""
    args, rest = root.parse_known_args(argv)
    if not hasattr(args, "overrides") or any(word.startswith("-") or "=" not in word for word in rest):
        return root.parse_args(argv)  # which says what it does not know
    args.overrides += rest
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    args = _parsed(argv)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # half an emoji in the data, or a terminal of few letters
    hush()
    try:
        return args.command(args) or 0
    except UserError as error:
        print(f"emu2-lit: {error}", file=sys.stderr)
        return USER_ERROR
    except (KeyboardInterrupt, StopRequested):
        print("emu2-lit: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader of our output, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line; overrides may stand after options, which argparse by itself does not take."""
    root = parser()
    args, left = root.parse_known_args(argv)
    if left and not (hasattr(args, "overrides") and all("=" in one and not one.startswith("-") for one in left)):
        root.error(f"unrecognized arguments: {' '.join(left)}")
    if left:
        args.overrides = [*args.overrides, *left]
    return args
