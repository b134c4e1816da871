"""What a run's folder tells, and what `submit` and `stop` make of it; SLURM's commands are stand-ins here."""

import json
import os
import socket
import time
from pathlib import Path

import pytest

from emu2_lit.cli import main
from emu2_lit.slurm.folder import array_elements, job_id_of

RECIPE = """\
model: {preset: tiny}
data: {sources: [{path: chats.json}]}
trainer: {max_steps: 4, accelerator: cpu, devices: 1}
"""
ARRAY = "slurm.array=['optimizer.lr=1e-3', 'optimizer.lr=1e-4', 'optimizer.lr=1e-5']"


@pytest.fixture(autouse=True)
def slurm(tmp_path, monkeypatch):
    """A current folder with a recipe, and a SLURM that has job 7; gives the state of every job to `slurm`."""
    commands = tmp_path / "bin"
    commands.mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{commands}:{os.environ['PATH']}")
    monkeypatch.setenv("EMU2_LIT_SLURM", str(tmp_path / "site.yaml"))
    (tmp_path / "site.yaml").touch()
    (tmp_path / "mine.yaml").write_text(RECIPE)
    (tmp_path / "chats.json").write_text("[]")

    def say(state: str) -> None:
        for name, line in {"sbatch": "7", "scontrol": f"JobId=7 JobState={state}", "scancel": ""}.items():
            (commands / name).write_text(f"#!/bin/sh\necho '{line}'\n")
            (commands / name).chmod(0o755)

    say("COMPLETED")
    return say


@pytest.fixture
def emu2_lit(capsys):
    """Runs the command: (exit status, what it said)."""

    def run(*arguments: str) -> tuple[int, str]:
        status = main(list(arguments))
        return status, "".join(capsys.readouterr())

    return run


def at_work(run: str, **others) -> None:
    """Write the file of this process, as if it were training."""
    told = {"phase": "training", "job": None, "host": socket.gethostname(), "pid": os.getpid(), "time": time.time()}
    Path(run).mkdir(parents=True, exist_ok=True)
    (Path(run) / "status.json").write_text(json.dumps(told | {"step": 3, "max_steps": 4} | others))


def test_a_smaller_array_leaves_nothing_of_the_larger_one(emu2_lit):
    assert emu2_lit("submit", "mine.yaml", "run.dir=sweep", ARRAY)[0] == 0
    assert [folder.name for folder in array_elements(Path("sweep"))] == ["0", "1", "2"]
    assert emu2_lit("submit", "mine.yaml", "run.dir=sweep", "slurm.array=['optimizer.lr=1e-3']")[0] == 0
    assert [folder.name for folder in array_elements(Path("sweep"))] == ["0"]
    assert emu2_lit("submit", "mine.yaml", "run.dir=sweep")[0] == 0
    assert not array_elements(Path("sweep")) and job_id_of(Path("sweep")) == "7"
    assert Path("sweep/2/slurm/recipe.yaml").exists(), "only who works there is forgotten"


def test_no_second_job_where_one_of_a_larger_array_still_works(emu2_lit, slurm):
    emu2_lit("submit", "mine.yaml", "run.dir=sweep", ARRAY)
    Path("sweep/slurm/job_id").unlink()
    Path("sweep/0/slurm/job_id").unlink()
    slurm("RUNNING")
    status, said = emu2_lit("submit", "mine.yaml", "run.dir=sweep", "slurm.array=['optimizer.lr=1e-3']")
    assert status == 2 and "sweep/1: job 7_1 (RUNNING) works there already" in said


@pytest.mark.parametrize("folder", ["local", "local/base"])
def test_no_job_where_a_run_outside_slurm_is_at_work(emu2_lit, folder):
    at_work(folder)
    status, said = emu2_lit("submit", "mine.yaml", "run.dir=local")
    assert status == 2 and "local: a run outside SLURM works there already" in said
    at_work(folder, phase="trained")
    assert emu2_lit("submit", "mine.yaml", "run.dir=local")[0] == 0


def test_what_a_job_left_on_a_machine_that_broke_down_is_nobody_at_work(emu2_lit):
    emu2_lit("submit", "mine.yaml", "run.dir=moved")
    at_work("moved", job="7.0", host="elsewhere")
    assert emu2_lit("stop", "moved") == (2, "emu2-lit: moved: nothing runs or waits there\n")
    assert emu2_lit("submit", "mine.yaml", "run.dir=moved")[0] == 0


@pytest.mark.parametrize(
    ("state", "expected", "asked"),
    [
        ("RUNNING", "job 7 saves after the step it is in, and ends", True),
        ("COMPLETING", "job 7 is ending already; should it be started again, it ends after its first step", True),
        ("PENDING", "job 7 was PENDING; it is cancelled", False),
    ],
)
def test_stop_tells_what_becomes_of_the_job(emu2_lit, slurm, state, expected, asked):
    emu2_lit("submit", "mine.yaml", "run.dir=run")
    slurm(state)
    assert emu2_lit("stop", "run") == (0, f"run: {expected}\n")
    assert Path("run/stop").exists() == asked
