"""`fit`: run a recipe, or go on with it."""

import argparse
import os

from emu2_lit.cli.recipes import add_recipe
from emu2_lit.errors import UserError
from emu2_lit.job import REQUEUE, STOP, Job, is_first_rank
from emu2_lit.recipe import Recipe, load, missing_files
from emu2_lit.signals import StopRequested, early

INTERRUPTED = 130


def register(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser("fit", help="train; the same command again resumes the run")
    add_recipe(command)
    command.set_defaults(command=fit)


def fit(args: argparse.Namespace) -> int:
    recipe = load(args.recipe, args.overrides)
    if missing := missing_files(recipe):
        raise UserError("\n".join(f"{args.recipe}: {message}" for message in missing))
    job = Job.here()
    try:
        early.while_loading()
        result = _run(recipe)
    except StopRequested as request:
        if job is None:
            raise
        _leave(job, recipe, str(request))
        os._exit(0)  # Python's own way out would wait for exchanges with ranks that are gone
    if result.status != "interrupted":
        return 0
    if job is None:
        return INTERRUPTED
    told = result.summary
    within = f" {told['seconds']:.0f} s after that" if told["seconds"] else ""
    _leave(job, recipe, f"{told['reason']}: saved at step {told['steps']}{within}", told["final"])
    return 0


def _run(recipe: Recipe):
    from lightning.pytorch.utilities.rank_zero import rank_zero_only

    from emu2_lit import run

    result = run.fit(recipe)
    if rank_zero_only.rank == 0 and not (result.status == "interrupted" and Job.here()):
        print(result.describe())
    return result


def _leave(job: Job, recipe: Recipe, told: str, final: bool = False) -> None:
    """Tell the batch script how it goes on, and the log."""
    again = recipe.slurm.requeue and not final
    job.leave(REQUEUE if again else STOP)
    if is_first_rank():
        goes_on = "unless it was cancelled, the job goes on by itself; SLURM may hold it back for two minutes"
        print(f"{told}; {goes_on if again else 'the job ends here'}", flush=True)
