"""Stop a run with a save, so that it stays stopped."""

from pathlib import Path

from emu2_lit.errors import UserError
from emu2_lit.job import STOP, stages
from emu2_lit.slurm import commands
from emu2_lit.slurm.folder import array_elements, is_at_work, job_id_of, progress_of, works_without_job


def stop(run: str | Path) -> list[str]:
    """Ask a run to save and end; a job that only waits is cancelled.

    Returns what was done, a line for each run: an array has several.

    Raises:
        UserError: nothing runs or waits there.
    """
    run = Path(run)
    done = [line for one in array_elements(run) or [run] if (line := _stop(one))]
    if not done:
        raise UserError(f"{run}: nothing runs or waits there")
    return done


def _stop(run: Path) -> str | None:
    job_id = job_id_of(run)
    state = commands.job(job_id).get("JobState", "") if job_id and commands.available() else ""
    if state == "RUNNING":
        ask(run)
        return f"{run}: job {job_id} saves after the step it is in, and ends"
    if state == "COMPLETING":  # it cannot be cancelled any more, and may already have asked to be started again
        ask(run)
        return f"{run}: job {job_id} is ending already; should it be started again, it ends after its first step"
    if commands.is_alive(state):
        commands.call("scancel", str(job_id))
        return f"{run}: job {job_id} was {state}; it is cancelled"
    if (works_without_job if state else is_at_work)(progress_of(run)):
        ask(run)
        return f"{run}: the run saves after the step it is in, and ends"
    return None


def ask(run: Path) -> None:
    """Leave the request wherever the run may look for it."""
    for folder in stages(run):
        (folder / STOP).touch()
