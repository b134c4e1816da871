"""A submitted job, as the run inside it sees it: which start this is, and what is to follow.

`emu2-lit submit` makes the folder `RUN/slurm`, which the batch script names to the run in EMU2_LIT_JOB:

    recipe.yaml      what the job runs             attempts.jsonl  a line per start: where it went on
    job.sh           the batch script              next            the run's word to the script: requeue or stop
    job_id           of the job, or of its successor
"""

import json
import os
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from emu2_lit.errors import UserError

VARIABLE = "EMU2_LIT_JOB"
STOP, REQUEUE = "stop", "requeue"  # trigger files in a run's folder, and the words in `next`
BASES = {"weights": "base", "decoder": "decoder_base"}  # folders in a run's, of recipes that run first; by model's keys


def is_first_rank() -> bool:
    """Whether this process speaks and writes for its step, also before any of them have met."""
    return os.environ.get("SLURM_PROCID", "0") == "0"


def in_step() -> bool:
    """Whether this process belongs to a step of a SLURM job: srun has started it, or what started it."""
    return "SLURM_STEP_ID" in os.environ


def stages(run: Path) -> list[Path]:
    """Where training may go on: the run's own folder, and those of the recipes that run first."""
    return [run, *(run / base for base in BASES.values() if (run / base).is_dir())]


def clear_triggers(run: Path) -> None:
    """Requests to an earlier run in this folder mean nothing to the next one."""
    for folder in stages(run):
        for name in (STOP, REQUEUE):
            with suppress(NotADirectoryError):  # a file in the folder's place: told where the folder is made
                (folder / name).unlink(missing_ok=True)


@dataclass(frozen=True)
class Job:
    """The job that this process belongs to.

    Attributes:
        folder: `RUN/slurm`.
        attempt: names this start among those of the job and of its successors.
    """

    folder: Path
    attempt: str

    @classmethod
    def here(cls) -> "Job | None":
        """The job around this process; None where it was not started by `emu2-lit submit`."""
        if VARIABLE not in os.environ:
            return None
        restart = os.environ.get("SLURM_RESTART_COUNT", "0")  # unset at the first start
        return cls(Path(os.environ[VARIABLE]), f"{os.environ.get('SLURM_JOB_ID', '')}.{restart}")

    @property
    def earlier(self) -> list[dict[str, Any]]:
        """Where the earlier starts went on: {attempt, run, step, time}, oldest first, without this one."""
        return [record for record in self._starts() if record["attempt"] != self.attempt]

    @property
    def restarts(self) -> int:
        """How often the job has been started again."""
        return len({record["attempt"] for record in self.earlier})

    def begin(self, run: Path, step: int, limit: int) -> None:
        """Note where this start goes on.

        Args:
            run: folder of what is trained: the run's own, or that of the recipe that runs first.
            step: optimizer steps that are done.
            limit: starts in a row that may find no progress.
        Raises:
            UserError: one more start at the same step: what ends the run each time has to be found first.
        """
        place = {"run": str(run), "step": step}
        fruitless = 0
        for record in reversed(self.earlier):
            if {key: record[key] for key in place} != place:
                break
            fruitless += 1
        if fruitless > limit:
            raise UserError(
                f"{run}: started {fruitless} times at step {step} without getting further, so it is not started again "
                "(slurm.max_restarts_without_progress). The log says what ended it; often the time to save is longer "
                "than slurm.signal_lead, or slurm.time is too short for the first checkpoint"
            )
        if is_first_rank():
            records = [*self._starts(), {"attempt": self.attempt, **place, "time": time.time()}]
            self._write("attempts.jsonl", "".join(json.dumps(record) + "\n" for record in records))

    def is_of_this_job(self, checkpoint: Path) -> bool:
        """Whether a checkpoint was written after the job's first start."""
        return bool(self.earlier) and checkpoint.stat().st_mtime >= self.earlier[0]["time"]

    def leave(self, word: Literal["requeue", "stop"]) -> None:
        """Tell the batch script what is to follow; it acts when all ranks are gone. The first one's word counts."""
        if is_first_rank():
            self._write("next", word + "\n")

    def _starts(self) -> list[dict[str, Any]]:
        try:
            lines = (self.folder / "attempts.jsonl").read_text(encoding="utf-8").splitlines()
        except OSError:  # the first start
            return []
        return [json.loads(line) for line in lines]

    def _write(self, name: str, text: str) -> None:
        """The whole file or, where a crash or a full disk prevents it, the one that was there."""
        draft = self.folder / f".{name}"
        draft.write_text(text, encoding="utf-8")
        draft.replace(self.folder / name)
