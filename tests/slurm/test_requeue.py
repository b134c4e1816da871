"""On a real SLURM: a run that is signalled, preempted, cancelled or stopped, and what becomes of it."""

import json
import time
from pathlib import Path

import pytest

from emu2_lit.cli import main
from tests.slurm.conftest import weights

TWO_RANKS = ("slurm.nodes=2", "data.micro_batch_size=2")


def steps_saved(run: str) -> list[int]:
    return sorted(int(path.stem.split("=")[1]) for path in Path(run).glob("checkpoints/step=*.ckpt"))


def starts(run: str) -> list[dict]:
    return [json.loads(line) for line in (Path(run) / "slurm" / "attempts.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def uninterrupted() -> dict:
    """Filled by the first test that needs it."""
    return {}


def test_two_ranks_signalled_go_on_by_themselves_to_the_weights_of_an_uninterrupted_run(jobs):
    straight = jobs.submit("straight", *TWO_RANKS)
    jobs.wait_for_state("straight", straight, "COMPLETED", "FAILED")
    assert jobs.cluster.state(straight) == "COMPLETED", jobs.told("straight")

    job = jobs.submit("stopped", *TWO_RANKS)
    jobs.wait_for_status("stopped", phase="training")
    jobs.cluster.call("scancel", "--signal=USR1", job)
    jobs.wait_for_state("stopped", job, "COMPLETED", "FAILED")
    assert jobs.cluster.state(job) == "COMPLETED", jobs.told("stopped")
    log = jobs.log("stopped")
    first, second = starts("stopped")
    assert first["step"] == 0 < second["step"] < 120, log
    assert "SIGUSR1: saved at step" in log and "Restart 1 of this job" in log
    assert jobs.cluster.show(job)["Restarts"] == "1"
    assert weights(Path("stopped")) == weights(Path("straight"))
