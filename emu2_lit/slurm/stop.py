"""Stop a run with a save, so that it stays stopped."""

from pathlib import Path

from emu2_lit.errors import UserError
from emu2_lit.job import STOP, stages
from emu2_lit.slurm import commands
from emu2_lit.slurm.status import array_elements, read_json, working_folder, works_without_job
from emu2_lit.slurm.submit import job_id_of

_AT_WORK = ("RUNNING", "COMPLETING")


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
    if state in _AT_WORK:
        ask(run)
        return f"{run}: job {job_id} saves after the step it is in, and ends"
    if commands.is_alive(state):
        commands.call("scancel", str(job_id))
        return f"{run}: job {job_id} was {state}; it is cancelled"
    if works_without_job(read_json(working_folder(run) / "status.json")):
        ask(run)
        return f"{run}: the run saves after the step it is in, and ends"
    return None


def ask(run: Path) -> None:
    """Leave the request wherever the run may look for it."""
    for folder in stages(run):
        (folder / STOP).touch()
