"""What a run's folder tells of it: its job, the runs of an array, whether anybody is at work."""

import json
import os
import socket
import time
from pathlib import Path
from typing import Any

from emu2_lit.job import stages

WORKING = ("training", "validating")  # phases of `status.json`
_SILENT = 600.0  # seconds after which a run on another machine that writes nothing counts as gone


def job_id_of(run: Path) -> str | None:
    """The job that was submitted for a run's folder, or that goes on for it."""
    try:
        return (run / "slurm" / "job_id").read_text(encoding="utf-8").strip() or None
    except OSError:
        return None


def array_elements(run: Path) -> list[Path]:
    """The folders of an array's runs, by number; empty for a single run."""
    folders = [job_id.parents[1] for job_id in run.glob("*/slurm/job_id") if job_id.parents[1].name.isdigit()]
    return sorted(folders, key=lambda folder: int(folder.name))


def read_json(path: Path) -> dict[str, Any]:
    """What a file of the run folder says; empty where there is none."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def progress_of(run: Path) -> dict[str, Any]:
    """`status.json` of the training that goes on: the run's own, or that of a recipe that runs first."""
    written = [path for folder in stages(run) if (path := folder / "status.json").exists()]
    return read_json(max(written, key=lambda path: path.stat().st_mtime)) if written else {}


def works_without_job(progress: dict[str, Any]) -> bool:
    """Whether somebody is at work of whom SLURM knows nothing. It knows better than a file how its own jobs stand."""
    return not progress.get("job") and is_at_work(progress)


def is_at_work(progress: dict[str, Any]) -> bool:
    """Whether the process that wrote `status.json` is still there, as far as can be told from here."""
    if progress.get("phase") not in WORKING:
        return False
    if progress["host"] != socket.gethostname():
        return time.time() - progress["time"] < _SILENT
    try:
        os.kill(progress["pid"], 0)
    except PermissionError:
        return True
    except OSError:
        return False
    return True
