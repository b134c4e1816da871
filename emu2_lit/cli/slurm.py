"""On a cluster: `submit`, `status`, `stop`."""

import argparse
import json
from pathlib import Path

from emu2_lit.cli.recipes import add_recipe


def register(commands: argparse._SubParsersAction) -> None:
    submit = commands.add_parser("submit", help="run a recipe as a SLURM job that goes on until it is done")
    add_recipe(submit)
    submit.add_argument("--dry-run", action="store_true", help="print the batch script and submit nothing")
    submit.set_defaults(command=submit_recipe)

    status = commands.add_parser("status", help="how a run stands: its job, step, rate, time left")
    status.add_argument("run", metavar="RUN", type=Path, help="a run's folder (run.dir)")
    status.add_argument("--json", action="store_true", help="machine-readable output")
    status.set_defaults(command=show_status)

    stop = commands.add_parser("stop", help="stop a run with a save; it is not started again")
    stop.add_argument("run", metavar="RUN", type=Path, help="a run's folder (run.dir)")
    stop.set_defaults(command=stop_run)


def submit_recipe(args: argparse.Namespace) -> None:
    from emu2_lit.slurm.submit import prepare, submit

    job = prepare(args.recipe, args.overrides)
    if args.dry_run:
        print(job.script, end="")
        return
    number = submit(job)
    wanted, here = job.layout, Path.cwd()
    run = job.run.relative_to(here) if job.run.is_relative_to(here) else job.run
    devices = f"{wanted.gpus} GPU(s)" if wanted.gpus else f"{wanted.tasks} process(es), no GPU"
    several = f", {len(job.runs)} runs" if len(job.runs) > 1 else ""
    print(f"Job {number}: {args.recipe} on {wanted.nodes} node(s) with {devices}{several}")
    print(f"  log     {run}/slurm/{number}{'_*' if several else ''}.log")
    print(f"  watch   emu2-lit status {run}")
    print(f"  stop    emu2-lit stop {run}    (saves; the same submit goes on from there)")
    print(f"  cancel  scancel {number}")


def show_status(args: argparse.Namespace) -> None:
    from emu2_lit.slurm.status import status

    found = status(args.run)
    if args.json:
        print(json.dumps([one.as_json() for one in found] if len(found) > 1 else found[0].as_json(), indent=2))
    else:
        print("\n".join(one.describe() for one in found))


def stop_run(args: argparse.Namespace) -> None:
    from emu2_lit.slurm.stop import stop

    print("\n".join(stop(args.run)))
