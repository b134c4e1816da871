"""On a real SLURM: runs that are warned, preempted, cancelled, stopped or killed, and what becomes of them."""

import json
import os
import signal
from pathlib import Path

import pytest

from emu2_lit import recipe as recipes
from emu2_lit.cli import main
from emu2_lit.run import fit
from emu2_lit.slurm.folder import job_id_of, read_json
from tests.slurm.conftest import Jobs, weights
from tests.slurm.mini import wait_for

pytestmark = pytest.mark.slurm
ENDLESS = "trainer.max_steps=100000"


@pytest.fixture
def straight(jobs) -> str:
    """The weights of a run that nobody disturbed, outside SLURM."""
    fit(recipes.load(jobs.recipe, ["run.dir=straight"]))
    return weights("straight")


def starts(run: str) -> list[int]:
    """The step from which each start of the job went on."""
    lines = (Path(run) / "slurm" / "attempts.jsonl").read_text().splitlines()
    return [json.loads(line)["step"] for line in lines]


def status(run: str, capsys) -> dict:
    capsys.readouterr()
    assert main(["status", run, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def assert_completed_after_a_restart(jobs: Jobs, run: str, job: str) -> None:
    jobs.wait_for_state(run, job, "COMPLETED", "FAILED", "TIMEOUT", "CANCELLED")
    assert jobs.cluster.state(job) == "COMPLETED", jobs.told(run)
    first, second = starts(run)
    assert first == 0 < second < 40, jobs.log(run)
    assert "Restart 1 of this job" in jobs.log(run)
    assert read_json(Path(run) / "status.json")["restarts"] == 1


def test_two_ranks_warned_end_with_the_weights_of_an_uninterrupted_run(jobs, capsys):
    undisturbed = jobs.submit("undisturbed", "slurm.nodes=2")
    job = jobs.submit("warned", "slurm.nodes=2")
    jobs.wait_for_checkpoint("warned")
    assert status("warned", capsys)["state"] == "RUNNING"
    jobs.cluster.call("scancel", "--signal=USR1", job)  # to both ranks and their data workers
    assert_completed_after_a_restart(jobs, "warned", job)
    assert jobs.log("warned").count("SIGUSR1: saved at step") == 1
    assert jobs.cluster.show(job)["Restarts"] == "1"
    jobs.wait_for_state("undisturbed", undisturbed, "COMPLETED", "FAILED")
    assert weights("warned") == weights("undisturbed")
    assert status("warned", capsys)["state"] == "COMPLETED"


def test_the_end_of_the_time_warns_and_a_stop_is_for_good(jobs, capsys):
    job = jobs.submit("long", ENDLESS, "slurm.time='2:00'", "slurm.signal_lead=60")
    jobs.wait_for_status("long", phase="training", restarts=1, seconds=240)
    assert "SIGUSR1: saved at step" in jobs.log("long") and starts("long")[1] > 0
    assert main(["submit", str(jobs.recipe), "run.dir=long"]) == 2
    assert f"job {job} (RUNNING) works there already" in capsys.readouterr().err

    assert main(["stop", "long"]) == 0
    jobs.wait_for_state("long", job, "FAILED", "COMPLETED", "PENDING")
    shown = jobs.cluster.show(job)
    assert (shown["JobState"], shown["ExitCode"], shown["Restarts"]) == ("FAILED", "130:0", "1"), jobs.told("long")
    assert "file stop: saved at step" in jobs.log("long")
    found = status("long", capsys)
    assert (found["phase"], found["reason"]) == ("stopped", "file stop") and found["step"] > starts("long")[1]
    assert main(["stop", "long"]) == 2


def test_a_preempted_run_comes_back(jobs, straight):
    job = jobs.submit("low", "slurm.partition=low")
    jobs.wait_for_checkpoint("low")
    other = jobs.cluster.call(
        "sbatch", "--parsable", "--nodes=2", "--exclusive", "-o", "/dev/null", "--wrap", "sleep 1"
    )
    assert_completed_after_a_restart(jobs, "low", job)
    assert jobs.cluster.state(other.strip()) == "COMPLETED"
    assert "SIGTERM: saved at step" in jobs.log("low")
    assert weights("low") == straight


def test_a_cancelled_run_has_saved_and_stays_cancelled(jobs, monkeypatch):
    for name, value in {"SLURM_NTASKS_PER_NODE": "7", "SLURM_JOB_ID": "1", "SBATCH_PARTITION": "none"}.items():
        monkeypatch.setenv(name, value)  # submitted from inside another job
    job = jobs.submit("cancelled", ENDLESS)
    jobs.wait_for_checkpoint("cancelled")
    jobs.cluster.call("scancel", job)
    jobs.wait_for_state("cancelled", job, "CANCELLED", "PENDING", "COMPLETED")
    assert jobs.cluster.state(job) == "CANCELLED"
    wait_for(lambda: "SIGTERM: saved at step" in jobs.log("cancelled"), 30, lambda: jobs.told("cancelled"))
    assert len(starts("cancelled")) == 1


def test_a_waiting_job_is_cancelled_by_stop(jobs, capsys):
    job = jobs.submit("waiting", "slurm.extra=[--begin=now+1hour]")
    assert status("waiting", capsys)["state"] == "PENDING"
    assert main(["stop", "waiting"]) == 0 and f"job {job} was PENDING" in capsys.readouterr().out
    assert jobs.cluster.state(job) == "CANCELLED"


def test_one_run_of_an_array_is_requeued_alone(jobs, capsys):
    overrides = ("slurm.array=['optimizer.lr=1e-3', 'optimizer.lr=5e-4']", "trainer.max_steps=30")
    number = jobs.submit("sweep", *overrides)
    jobs.wait_for_checkpoint("sweep/1")
    jobs.cluster.call("scancel", "--signal=USR1", f"{number}_1")
    for element in ("0", "1"):
        jobs.wait_for_state("sweep", f"{number}_{element}", "COMPLETED", "FAILED")
    assert [len(starts(f"sweep/{element}")) for element in (0, 1)] == [1, 2], jobs.log("sweep")
    assert [recipes.load(f"sweep/{element}/recipe.yaml").optimizer.lr for element in (0, 1)] == [1e-3, 5e-4]
    capsys.readouterr()
    assert main(["status", "sweep", "--json"]) == 0
    assert [one["state"] for one in json.loads(capsys.readouterr().out)] == ["COMPLETED", "COMPLETED"]


def test_where_requeueing_is_forbidden_another_job_goes_on(jobs, straight):
    job = jobs.submit("chained")
    jobs.wait_for_checkpoint("chained")
    jobs.cluster.call("scontrol", "update", f"jobid={job}", "requeue=0")
    jobs.cluster.call("scancel", "--signal=USR1", job)
    successor = wait_for(lambda: (now := job_id_of(Path("chained"))) != job and now, 60, lambda: jobs.told("chained"))
    assert_completed_after_a_restart(jobs, "chained", successor)
    assert weights("chained") == straight


def test_a_job_that_gets_nowhere_is_not_started_for_ever(jobs):
    job = jobs.submit("loop", ENDLESS, "slurm.max_restarts_without_progress=1")
    for start in (1, 2):
        wait_for(lambda: Path("loop/slurm/attempts.jsonl").exists() and len(starts("loop")) == start, 120)  # noqa: B023
        jobs.cluster.call("scancel", "--signal=TERM", job)  # while it loads: nothing can be saved yet
    jobs.wait_for_state("loop", job, "FAILED", "COMPLETED")
    assert jobs.cluster.show(job)["ExitCode"] == "2:0" and starts("loop") == [0, 0], jobs.told("loop")
    assert "started 2 times at step 0 without getting further" in jobs.log("loop")


def test_a_killed_rank_ends_the_job_at_once_and_the_next_submit_goes_on(jobs):
    job = jobs.submit("killed", "slurm.nodes=2")
    jobs.wait_for_checkpoint("killed")
    os.kill(read_json(Path("killed/status.json"))["pid"], signal.SIGKILL)
    jobs.wait_for_state("killed", job, "FAILED", "PENDING", seconds=30)
    assert jobs.cluster.state(job) == "FAILED", jobs.told("killed")
    again = jobs.submit("killed", "slurm.nodes=2")
    jobs.wait_for_state("killed", again, "COMPLETED", "FAILED")
    assert jobs.cluster.state(again) == "COMPLETED" and starts("killed")[0] > 0, jobs.told("killed")


def test_a_run_whose_node_breaks_down_goes_on_elsewhere_from_its_last_checkpoint(jobs, straight):
    job = jobs.submit("moved", "slurm.extra=[--nodelist=n0]")
    jobs.wait_for_checkpoint("moved")
    try:
        jobs.cluster.call("scontrol", "update", "nodename=n0", "state=down", "reason=test")
        jobs.wait_for_state("moved", job, "PENDING", "FAILED", "COMPLETED")
        jobs.cluster.call("scontrol", "update", f"jobid={job}", "reqnodelist=n1")
        jobs.wait_for_state("moved", job, "COMPLETED", "FAILED")
    finally:
        jobs.cluster.call("scontrol", "update", "nodename=n0", "state=resume")
    assert jobs.cluster.state(job) == "COMPLETED", jobs.told("moved")
    assert [step >= 10 for step in starts("moved")] == [False, True]
    assert weights("moved") == straight
