"""A submitted job as the run inside it sees it."""

from pathlib import Path

import pytest

from emu2_lit.errors import UserError
from emu2_lit.job import Job, clear_triggers


@pytest.fixture
def start(tmp_path, monkeypatch):
    """The job of this process at its so-many-th start, on some rank."""
    monkeypatch.setenv("EMU2_LIT_JOB", str(tmp_path))
    monkeypatch.setenv("SLURM_JOB_ID", "12")

    def begin(restart: int, step: int, rank: int = 0, run: str = "run", limit: int = 2) -> Job:
        monkeypatch.setenv("SLURM_RESTART_COUNT", str(restart)) if restart else monkeypatch.delenv(
            "SLURM_RESTART_COUNT", raising=False
        )
        monkeypatch.setenv("SLURM_PROCID", str(rank))
        job = Job.here()
        job.begin(Path(run), step, limit)
        return job

    return begin


def test_elsewhere_there_is_no_job(monkeypatch):
    monkeypatch.delenv("EMU2_LIT_JOB", raising=False)
    assert Job.here() is None


def test_restarts_are_counted_alike_on_all_ranks(start):
    assert [start(0, 0, rank).restarts for rank in (1, 0, 2)] == [0, 0, 0]
    assert [start(1, 40, rank).restarts for rank in (0, 1)] == [1, 1]
    assert start(1, 40).earlier[0]["step"] == 0


def test_a_run_that_gets_on_is_started_as_often_as_it_takes(start):
    assert start(9, 90).restarts == 0
    for restart in range(10, 30):
        start(restart, restart // 2)


def test_a_run_that_does_not_is_refused_on_all_ranks(start):
    start(0, 10)
    for restart in (1, 2, 3):
        start(restart, 40)
    for rank in (1, 0):
        with pytest.raises(UserError, match="run: started 3 times at step 40 without getting further"):
            start(4, 40, rank)
    assert start(4, 41).restarts == 4


def test_the_recipe_that_runs_first_is_another_place(start):
    for restart in range(3):
        start(restart, 0, run="run/base")
    start(3, 0, run="run")


def test_a_start_that_cannot_be_noted_leaves_the_earlier_ones(start, tmp_path, monkeypatch):
    start(0, 0)

    def full(path, text, **_):
        open(path, "w").write(text[:9])
        raise OSError("full")

    with monkeypatch.context() as disk, pytest.raises(OSError, match="full"):
        disk.setattr(Path, "write_text", full)
        start(1, 1)
    assert start(2, 2).restarts == 1


def test_the_word_to_the_script_is_the_first_ranks(start, tmp_path):
    start(0, 0, rank=1).leave("stop")
    assert not (tmp_path / "next").exists()
    start(0, 0, rank=0).leave("requeue")
    assert (tmp_path / "next").read_text() == "requeue\n"


def test_old_requests_are_dropped(tmp_path):
    (tmp_path / "stop").touch()
    clear_triggers(tmp_path)
    assert not list(tmp_path.iterdir())
