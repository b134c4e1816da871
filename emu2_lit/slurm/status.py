"""How a run stands: its job, its step, its rate, the time left."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from emu2_lit.errors import UserError
from emu2_lit.job import BASES
from emu2_lit.slurm import commands
from emu2_lit.slurm.folder import WORKING, array_elements, is_at_work, job_id_of, progress_of, read_json
from emu2_lit.slurm.layout import format_time


@dataclass
class RunStatus:
    """One run.

    Attributes:
        state: of the job, in SLURM's words; without one: finished, running, stopped or unknown.
        reason: why the job waits, or why the run stopped.
        elapsed, limit: of the job's present stretch, in SLURM's notation.
        restarts: how often the job was started again.
        seconds_left: of training, at the present rate.
    """

    run: str
    state: str
    job: str | None = None
    reason: str | None = None
    nodes: str | None = None
    elapsed: str | None = None
    limit: str | None = None
    restarts: int = 0
    phase: str | None = None
    step: int | None = None
    max_steps: int | None = None
    steps_per_second: float | None = None
    seconds_left: float | None = None
    log: str | None = None

    def describe(self) -> str:
        """A few lines for people."""
        lines = [self.run, f"  {'job ' + self.job if self.job else 'run':10}{self._state()}"]
        if self.step is not None:
            lines.append(f"  step      {self._step()}")
        if self.log:
            lines.append(f"  log       {self.log}")
        return "\n".join(lines)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    def _state(self) -> str:
        told = [self.state + (f" ({self.reason})" if self.reason else "")]
        if self.elapsed and self.state == "RUNNING":
            told.append(f"on {self.nodes}, {self.elapsed} of {self.limit}")
        if self.restarts:
            told.append(f"started again {self.restarts} time(s)")
        return ", ".join(told)

    def _step(self) -> str:
        told = [f"{self.step}/{self.max_steps}" if self.max_steps else str(self.step)]
        if self.phase and self.phase != "training":
            told.append(self.phase)
        if self.steps_per_second:
            told.append(f"{self.steps_per_second:.2f} steps/s")
        if self.seconds_left is not None:
            told.append(f"{format_time(self.seconds_left)} left")
        return ", ".join(told)


def status(run: str | Path) -> list[RunStatus]:
    """How a run stands; of an array, each of its runs.

    Raises:
        UserError: there is no run in that folder.
    """
    run = Path(run)
    if elements := array_elements(run):
        return [_status(element) for element in elements]
    if not any((run / name).exists() for name in ("slurm", "recipe.yaml", *BASES.values())):
        raise UserError(f"{run}: there is no run; name the folder (run.dir) of one")
    return [_status(run)]


def _status(run: Path) -> RunStatus:
    summary, progress = read_json(run / "summary.json"), progress_of(run)
    job_id = job_id_of(run)
    known = commands.job(job_id) if job_id and commands.available() else {}
    found = RunStatus(run=str(run), job=job_id, state=known.get("JobState") or _own_state(summary, progress))
    reasons = [_told(known.get("Reason")), progress.get("reason")]  # an ended job's own is only that it failed
    found.reason = next(filter(None, reasons if commands.is_alive(found.state) else reversed(reasons)), None)
    found.nodes, found.elapsed, found.limit = (_told(known.get(key)) for key in ("NodeList", "RunTime", "TimeLimit"))
    found.log = _told(known.get("StdOut")) or _last_log(run, job_id)
    _add_progress(found, summary, progress)
    found.restarts = max(found.restarts, int(known.get("Restarts", 0)))
    return found


def _own_state(summary: dict[str, Any], progress: dict[str, Any]) -> str:
    if is_at_work(progress):
        return "running"
    if "steps" in summary and summary["steps"] >= progress.get("step", 0):
        return "finished"
    return "stopped" if progress else "unknown"


def _add_progress(found: RunStatus, summary: dict[str, Any], progress: dict[str, Any]) -> None:
    found.step = progress.get("step", summary.get("steps"))
    found.max_steps, found.phase = progress.get("max_steps"), progress.get("phase")
    found.restarts = progress.get("restarts", 0)
    rate = progress.get("steps_per_second")
    if rate and found.phase in WORKING and found.state in ("RUNNING", "running"):
        found.steps_per_second, found.seconds_left = rate, (found.max_steps - found.step) / rate


def _last_log(run: Path, job_id: str | None) -> str | None:
    logs = sorted((run / "slurm").glob(f"{job_id}.log")) if job_id else []
    return str(logs[-1]) if logs else None


def _told(value: str | None) -> str | None:
    return None if value in (None, "", "(null)", "None") else value
