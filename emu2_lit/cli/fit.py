"""`fit`: run a recipe, or go on with it."""

import argparse

from emu2_lit.cli.recipes import add_recipe
from emu2_lit.errors import UserError
from emu2_lit.recipe import load, missing_files


def register(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser("fit", help="train; the same command again resumes the run")
    add_recipe(command)
    command.set_defaults(command=fit)


def fit(args: argparse.Namespace) -> int:
    recipe = load(args.recipe, args.overrides)
    if missing := missing_files(recipe):
        raise UserError("\n".join(f"{args.recipe}: {message}" for message in missing))
    from lightning.pytorch.utilities.rank_zero import rank_zero_only

    from emu2_lit import run

    result = run.fit(recipe)
    if rank_zero_only.rank == 0:
        print(result.describe())
    return 130 if result.status == "interrupted" else 0
