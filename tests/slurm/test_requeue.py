"""On a real SLURM: runs that are warned, preempted, cancelled, stopped or killed, and what becomes of them."""

import json
import os
import re
import signal
from pathlib import Path

import pytest

from emu2_lit import recipe as recipes
from emu2_lit.cli import main
from emu2_lit.slurm.folder import job_id_of, read_json
from tests.slurm.conftest import STEPS, Jobs, starts, weights
from tests.slurm.mini import wait_for

pytestmark = pytest.mark.slurm
ENDLESS = "trainer.max_steps=100000"
OVER = ("COMPLETED", "FAILED", "TIMEOUT", "CANCELLED")


def status(run: str, capsys) -> dict | list:
    capsys.readouterr()
    assert main(["status", run, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def assert_completed(jobs: Jobs, run: str, job: str) -> None:
    jobs.wait_for_state(run, job, *OVER)
    assert jobs.cluster.state(job) == "COMPLETED", jobs.told(run)


def assert_completed_after_a_restart(jobs: Jobs, run: str, job: str) -> None:
    assert_completed(jobs, run, job)
    first, second = starts(run)
    assert first == 0 < second < STEPS, jobs.log(run)
    assert "Restart 1 of this job" in jobs.log(run)
    assert read_json(Path(run) / "status.json")["restarts"] == 1


def test_two_ranks_that_are_warned_or_killed_end_alike(jobs, capsys):
    """One each on two nodes, and both on one, at the same time: what befalls them differs, and nothing else."""
    job = jobs.submit("warned", "slurm.nodes=2")
    doomed = jobs.submit("killed", "trainer.devices=2")
    jobs.wait_for_checkpoint("warned")
    assert status("warned", capsys)["state"] == "RUNNING"
    jobs.cluster.call("scancel", "--signal=USR1", job)  # to both ranks and their data workers

    jobs.wait_for_checkpoint("killed")
    os.kill(read_json(Path("killed/status.json"))["pid"], signal.SIGKILL)
    jobs.wait_for_state("killed", doomed, "FAILED", "PENDING", "COMPLETED", seconds=30)
    assert jobs.cluster.state(doomed) == "FAILED", jobs.told("killed")
    again = jobs.submit("killed", "trainer.devices=2")

    assert_completed_after_a_restart(jobs, "warned", job)
    assert jobs.log("warned").count("SIGUSR1: saved at step") == 1
    assert jobs.cluster.show(job)["Restarts"] == "1"
    assert status("warned", capsys)["state"] == "COMPLETED"
    assert_completed(jobs, "killed", again)
    assert starts("killed")[0] > 0, jobs.told("killed")
    for run in ("warned", "killed"):
        for rank in (0, 1):
            assert jobs.log(run).count(f"GLOBAL_RANK: {rank}, MEMBER: {rank + 1}/2") == 2, jobs.log(run)
    assert weights("warned") == weights("killed")


def test_each_run_of_an_array_has_a_fate_of_its_own(jobs, straight, monkeypatch, capsys):
    """The first is warned while it validates, the second after its last step, the third is cancelled."""
    for name, value in {"SLURM_NTASKS_PER_NODE": "7", "SLURM_JOB_ID": "1", "SBATCH_PARTITION": "none"}.items():
        monkeypatch.setenv(name, value)  # submitted from inside another job
    half = STEPS // 2
    own = ["optimizer.lr=1e-3", f"optimizer.lr=5e-4 trainer.max_steps={half}", f"{ENDLESS} data.validation=[]"]
    number = jobs.submit(
        "sweep", f"slurm.array={own}", f"trainer.val_check_interval={half}", "data.validation_limit=40",
        f"data.validation=[{{path: {jobs.validation}}}]",
    )  # fmt: skip
    waiting = [0, 1]  # either may come first, and does not validate for long

    def warn() -> bool:
        for element in list(waiting):
            found = read_json(Path(f"sweep/{element}/status.json"))
            if found.get("phase") == "validating" and found["step"] == half:
                jobs.cluster.call("scancel", "--signal=USR1", f"{number}_{element}")
                waiting.remove(element)
        return not waiting

    wait_for(warn, 240, lambda: jobs.told("sweep"))
    jobs.wait_for_checkpoint("sweep/2")
    jobs.cluster.call("scancel", f"{number}_2")

    jobs.wait_for_state("sweep", f"{number}_2", "CANCELLED", "PENDING", "COMPLETED")
    assert jobs.cluster.state(f"{number}_2") == "CANCELLED"
    saved = lambda: "SIGTERM: saved at step" in jobs.log("sweep")  # noqa: E731
    wait_for(saved, 30, lambda: jobs.told("sweep"))
    for element in (0, 1):
        assert_completed(jobs, "sweep", f"{number}_{element}")
    assert starts("sweep/0") == [0, half + 1] and starts("sweep/1") == [0, half], jobs.log("sweep")
    assert starts("sweep/2") == [0] and "unless it was cancelled, the job goes on" in jobs.log("sweep")
    assert [recipes.load(f"sweep/{element}/recipe.yaml").optimizer.lr for element in (0, 1)] == [1e-3, 5e-4]
    assert weights("sweep/0") == weights(straight)
    assert [one["state"] for one in status("sweep", capsys)] == ["COMPLETED", "COMPLETED", "CANCELLED"]


@pytest.fixture(scope="module")
def long(jobs) -> str:
    """A job with little time, submitted ahead: SLURM looks at the clock every 30 seconds, and others run meanwhile."""
    return jobs.submit("long", ENDLESS, "slurm.time='2:00'", "slurm.signal_lead=60")


@pytest.mark.usefixtures("long")
def test_a_job_that_gets_nowhere_is_not_started_for_ever(jobs):
    job = jobs.submit("loop", ENDLESS, "slurm.max_restarts_without_progress=1")
    for start in (1, 2):
        wait_for(lambda: Path("loop/slurm/attempts.jsonl").exists() and len(starts("loop")) == start, 240)  # noqa: B023
        jobs.cluster.call("scancel", "--signal=TERM", job)  # while it loads: nothing can be saved yet
    jobs.wait_for_state("loop", job, "FAILED", "COMPLETED")
    assert jobs.cluster.show(job)["ExitCode"] == "2:0" and starts("loop") == [0, 0], jobs.told("loop")
    assert "started 2 times at step 0 without getting further" in jobs.log("loop")


def test_the_end_of_the_time_warns_and_a_stop_is_for_good(jobs, long, capsys):
    jobs.wait_for_status("long", phase="training", restarts=1)
    assert "SIGUSR1: saved at step" in jobs.log("long") and starts("long")[1] > 0
    assert main(["submit", str(jobs.recipe), "run.dir=long"]) == 2
    assert f"job {long} (RUNNING) works there already" in capsys.readouterr().err

    assert main(["stop", "long"]) == 0
    jobs.wait_for_state("long", long, "FAILED", "COMPLETED", "PENDING")
    shown = jobs.cluster.show(long)
    assert (shown["JobState"], shown["ExitCode"], shown["Restarts"]) == ("FAILED", "130:0", "1"), jobs.told("long")
    assert "file stop: saved at step" in jobs.log("long")
    found = status("long", capsys)
    assert (found["phase"], found["reason"]) == ("stopped", "file stop") and found["step"] > starts("long")[1]
    assert main(["stop", "long"]) == 2


def test_runs_that_lose_their_machine_go_on_from_their_own_checkpoints(jobs, straight):
    """One began with another's checkpoint and is preempted. The other's node breaks down; then it may not be requeued,
    and another job goes on."""
    earlier = f"{straight}/checkpoints/step=0000010.ckpt"
    low = jobs.submit("low", "slurm.partition=low", "slurm.extra=[--nodelist=n1]", f"resume.checkpoint={earlier}")
    moved = jobs.submit("moved", "slurm.extra=[--nodelist=n0]")
    jobs.wait_for_checkpoint("low")
    urgent = ("sbatch", "--parsable", "--nodelist=n1", "--exclusive", "-o", "/dev/null", "--wrap", "sleep 1")
    other = jobs.cluster.call(*urgent).strip()
    jobs.wait_for_checkpoint("moved")
    move(jobs, "moved", moved)
    successor = forbid_requeueing(jobs, "moved", moved)

    assert_completed_after_a_restart(jobs, "low", low)
    assert jobs.cluster.state(other) == "COMPLETED"
    assert "SIGTERM: saved at step" in jobs.log("low")
    began = re.findall(r"Restored all states from the checkpoint at (\S+)", jobs.log("low"))
    assert began == [earlier, f"low/checkpoints/step={starts('low')[1]:07d}.ckpt"]

    assert_completed(jobs, "moved", successor)
    first, second, third = starts("moved")
    assert first == 0 and 10 <= second < third < STEPS, jobs.told("moved")
    assert read_json(Path("moved/status.json"))["restarts"] == 2 and "Restart 2 of this job" in jobs.log("moved")
    assert weights("low") == weights("moved") == weights(straight)


def move(jobs: Jobs, run: str, job: str) -> None:
    """Take down the job's node n0 and wait until the run goes on upon n1."""
    try:
        jobs.cluster.call("scontrol", "update", "nodename=n0", "state=down", "reason=test")
        jobs.wait_for_state(run, job, "PENDING", *OVER)
        jobs.cluster.call("scontrol", "update", f"jobid={job}", "reqnodelist=n1")
        jobs.wait_for_status(run, phase="training", restarts=1)
    finally:
        jobs.cluster.resume("n0")


def forbid_requeueing(jobs: Jobs, run: str, job: str) -> str:
    """Warn the job where it may not be requeued; the job that goes on after it is returned."""
    jobs.cluster.call("scontrol", "update", f"jobid={job}", "requeue=0")
    jobs.cluster.call("scancel", "--signal=USR1", job)
    return wait_for(lambda: (now := job_id_of(Path(run))) != job and now, 60, lambda: jobs.told(run))


def test_a_waiting_job_is_cancelled_by_stop(jobs, capsys):
    job = jobs.submit("waiting", "slurm.extra=[--begin=now+1hour]")
    assert status("waiting", capsys)["state"] == "PENDING"
    assert main(["stop", "waiting"]) == 0 and f"job {job} was PENDING" in capsys.readouterr().out
    assert jobs.cluster.state(job) == "CANCELLED"


def test_slurm_takes_what_a_dry_run_prints(jobs, capsys):
    overrides = [
        "slurm.nodes=2",
        "slurm.mem=1G",
        "slurm.array=['data.seed=1', 'data.seed=2']",
        "slurm.array_parallel=1",
    ]
    assert main(["submit", str(jobs.recipe), "--dry-run", *overrides, "slurm.signal=USR2"]) == 0
    Path("printed.sh").write_text(capsys.readouterr().out)
    jobs.cluster.call("sbatch", "--test-only", "printed.sh")


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["slurm.partition=none"], "invalid partition specified: none"),
        (["slurm.gpus=1", "trainer.accelerator=auto"], "(slurm.gpus=0 asks for no GPUs"),
    ],
)
def test_what_slurm_refuses_is_told_in_its_words(jobs, capsys, overrides, expected):
    assert main(["submit", str(jobs.recipe), "run.dir=refused", *overrides]) == 2
    assert expected in capsys.readouterr().err
    assert job_id_of(Path("refused")) is None
