"""The batch script: a function of the recipe and the site's defaults, printed by a dry run."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from emu2_lit.cli import main
from emu2_lit.errors import UserError
from emu2_lit.slurm.layout import format_time, parse_time
from emu2_lit.slurm.submit import prepare

RECIPE = """\
model: {preset: tiny}
data: {sources: [{path: chats.json}], global_batch_size: 64, workers: 3}
trainer: {max_steps: 4, devices: 1}
slurm: {time: 4:00:00, account: me}
"""


@pytest.fixture
def script(tmp_path, monkeypatch, capsys):
    """Prints the script of a recipe in an empty current folder, whose name has a space."""
    folder = tmp_path / "my project"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("EMU2_LIT_SLURM", str(tmp_path / "slurm.yaml"))
    Path("mine.yaml").write_text(RECIPE)
    Path("chats.json").write_text("[]")
    (tmp_path / "slurm.yaml").write_text("")

    def run(*overrides: str) -> str:
        before = sorted(folder.rglob("*"))
        assert main(["submit", "mine.yaml", "--dry-run", *overrides]) == 0, capsys.readouterr().err
        assert sorted(folder.rglob("*")) == before, "a dry run writes nothing"
        text = capsys.readouterr().out
        subprocess.run(["bash", "-n"], input=text, text=True, check=True)
        return text

    return run


def options(script: str) -> list[str]:
    return [line.removeprefix("#SBATCH ") for line in script.splitlines() if line.startswith("#SBATCH ")]


def command(script: str) -> list[str]:
    """The words of the srun line."""
    joined = script.replace("\\\n", " ")
    return shlex.split(next(line for line in joined.splitlines() if line.startswith("srun ")))


def test_a_recipe_becomes_options_and_a_command(script, tmp_path):
    text, here = script("slurm.nodes=2", "slurm.gpus=8"), tmp_path / "my project"
    assert options(text) == [
        "--job-name=mine", "--nodes=2", "--ntasks-per-node=8", "--cpus-per-task=4", "--gpus-per-node=8",
        "--time=04:00:00", "--account=me", "--signal=USR1@180", "--requeue", "--open-mode=append",
        f'--chdir="{here}"', f'--output="{here}/runs/mine/slurm/%j.log"',
    ]  # fmt: skip
    assert command(text) == [
        "srun", "--kill-on-bad-exit=1", "--cpus-per-task=4", sys.executable, "-u", "-m", "emu2_lit", "fit",
        "$EMU2_LIT_JOB/recipe.yaml",
    ]  # fmt: skip
    assert text.startswith("#!/bin/bash\n#SBATCH ")


def test_the_frozen_recipe_has_the_processes_that_the_job_starts(script):
    run, recipe = next(iter(prepare("mine.yaml", ["slurm.nodes=2", "slurm.gpus=8"]).runs.items()))
    assert (recipe.trainer.num_nodes, recipe.trainer.devices, recipe.trainer.accelerator) == (2, 8, "auto")
    assert run == Path("runs/mine").absolute() and recipe.run.dir == "runs/mine"
    recipe = next(iter(prepare("mine.yaml", ["slurm.gpus=0", "trainer.devices=4"]).runs.values()))
    assert (recipe.trainer.devices, recipe.trainer.accelerator) == (4, "cpu")


def test_other_ways_of_asking(script):
    text = script(
        "slurm.partition=gpu", "slurm.qos=long", "slurm.constraint='a100|h100'", "slurm.mem=0", "slurm.cpus=2",
        "slurm.requeue=false", "slurm.signal=USR2", "slurm.signal_lead=60", "slurm.extra=[--reservation=x]",
        "slurm.dependency=afterok:12",
    )  # fmt: skip
    for option in (
        "--partition=gpu", "--qos=long", "--constraint=a100|h100", "--mem=0", "--cpus-per-task=2", "--no-requeue",
        "--signal=USR2@60", "--reservation=x", "--dependency=afterok:12",
    ):  # fmt: skip
        assert option in options(text), option


def test_what_surrounds_the_run(script):
    text = script(
        "slurm.setup=['module load cuda', 'ulimit -n 4096']", "slurm.venv=/my venv", "slurm.environment.TEXT=it's",
        "slurm.environment.N=1",
    )  # fmt: skip
    surrounding = text[text.index("export EMU2_LIT_JOB") : text.index("srun ")]
    assert "module load cuda\nulimit -n 4096\nsource '/my venv'/bin/activate\n" in surrounding
    assert """export TEXT='it'"'"'s'\nexport N=1\n""" in surrounding
    assert command(text)[3] == "python"


def test_containers(script, tmp_path):
    words = command(script("slurm.gpus=1", "slurm.container=/images/kit.sif", "slurm.container_mounts=[/data]"))
    here = str(tmp_path / "my project")
    assert words[3:12] == ["apptainer", "exec", "--nv", "--bind", here, "--bind", "/data", "/images/kit.sif", "python"]
    words = command(script("slurm.container=nvcr.io#kit", "slurm.container_runtime=pyxis", "slurm.gpus=1"))
    assert words[3:7] == [
        "--container-image=nvcr.io#kit", f"--container-mounts={here}:{here}", f"--container-workdir={here}", "python",
    ]  # fmt: skip


def test_home_is_put_in_place_of_its_sign_where_no_shell_does(script, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert "source /home/me/env/bin/activate\n" in script("slurm.venv=~/env")
    overrides = ["slurm.container=~/kit.sif", "slurm.container_mounts=['~/data', '~/cache:/cache', '/a~b']"]
    words = command(script(*overrides))
    assert [words[index + 1] for index, word in enumerate(words) if word == "--bind"][1:] == [
        "/home/me/data", "/home/me/cache:/cache", "/a~b",
    ]  # fmt: skip
    assert "/home/me/kit.sif" in words
    mounts = next(word for word in command(script(*overrides, "slurm.container_runtime=pyxis")) if "-mounts" in word)
    assert mounts.endswith(",/home/me/data:/home/me/data,/home/me/cache:/cache,/a~b:/a~b")


@pytest.fixture
def start(script, tmp_path):
    """Runs the script of a recipe, whose `srun` only tells what it was given: (exit status, what all said)."""
    srun = tmp_path / "bin" / "srun"
    srun.parent.mkdir()
    srun.write_text('#!/bin/bash\necho "started with $VARIABLE"\nexit 7\n')
    srun.chmod(0o755)

    def run(*overrides: str) -> tuple[int, str]:
        (tmp_path / "job.sh").write_text(script(*overrides))
        environment = os.environ | {"PATH": f"{srun.parent}:{os.environ['PATH']}"}
        done = subprocess.run(["bash", tmp_path / "job.sh"], env=environment, capture_output=True, text=True)
        return done.returncode, done.stdout + done.stderr

    return run


FAILING = {
    "a command": (["slurm.setup=['module load cuda']"], "(exit status 127): module load cuda"),
    "one of several": (["slurm.setup=['true', 'ls /nowhere  # data', 'true']"], "(exit status 2): ls /nowhere  # data"),
    "a function": (["slurm.setup=['load() { return 3; }', 'load']"], "(exit status 3): load"),
    "in a block": (["slurm.setup=['if true; then', '    false', 'fi']"], "(exit status 1):     false"),
    "no environment": (["slurm.venv=/nowhere"], "(exit status 1): source /nowhere/bin/activate"),
}


@pytest.mark.parametrize(("overrides", "expected"), FAILING.values(), ids=FAILING)
def test_what_fails_before_the_run_ends_the_job(start, overrides, expected):
    status, said = start(*overrides)
    assert status == 1 and f"not started: slurm.setup or slurm.venv has failed {expected}\n" in said
    assert "started with" not in said


def test_what_only_looks_like_a_failure_before_the_run_does_not(start, tmp_path):
    (tmp_path / "profile").write_text("false\nexport VARIABLE=it\n")
    setup = ["if false; then true; fi", "false || true", "load() { false; true; }", "load"]
    status, said = start(f"slurm.setup={[*setup, f'source {tmp_path}/profile']}")
    assert (status, said) == (7, "started with it\n"), "the exit status is that of the run"


def test_an_array_has_a_recipe_for_each_run(script):
    overrides = ["slurm.array=['optimizer.lr=1e-4', 'optimizer.lr=1e-3 data.seed=7']", "slurm.array_parallel=1"]
    assert "--array=0-1%1" in options(script(*overrides))
    runs = prepare("mine.yaml", overrides).runs
    assert [path.name for path in runs] == ["0", "1"]
    assert [(one.optimizer.lr, one.data.seed, one.run.dir) for one in runs.values()] == [
        (1e-4, 0, "runs/mine/0"), (1e-3, 7, "runs/mine/1"),
    ]  # fmt: skip


def test_the_sites_file_lies_under_the_recipe(script, tmp_path):
    (tmp_path / "slurm.yaml").write_text("slurm: {partition: gpu, account: site, environment: {A: '1', B: '1'}}\n")
    text = script("slurm.environment.B=2")
    assert "--partition=gpu" in options(text) and "--account=me" in options(text)
    assert "export A=1\nexport B=2\n" in text


def test_a_dependency_may_name_a_run(script):
    Path("runs/base/slurm").mkdir(parents=True)
    Path("runs/base/slurm/job_id").write_text("77_1\n")
    assert "--dependency=afterok:77_1:5" in options(script("slurm.dependency=afterok:runs/base:5"))
    assert "--dependency=singleton" in options(script("slurm.dependency=singleton"))


REFUSED = {
    "no such partition key": (["slurm.partitoin=x"], "did you mean slurm.partition?"),
    "time": (["slurm.time=soon"], "slurm.time: 'soon' is no time"),
    "lead": (["slurm.time=3:00"], "told to save as soon as it starts"),
    "gpus on a cpu": (["slurm.gpus=2", "trainer.accelerator=cpu"], "trainer.accelerator=cpu uses none"),
    "no gpus on gpus": (["slurm.gpus=0", "trainer.accelerator=gpu"], "needs some"),
    "unknown gpus": (["trainer.devices=auto"], "slurm.gpus: say how many"),
    "batch": (["slurm.gpus=7"], "64 is not a multiple of data.micro_batch_size=1 times 7 processes"),
    "dependency": (["slurm.dependency=afterok:runs/none"], "neither a job's number nor the folder"),
    "array's queue": (["slurm.array=['slurm.partition=gpu']"], "slurm.array.0: slurm.partition is that of the whole"),
    "array": (["slurm.array=['slurm.nodes=2']"], "slurm.array.0: all runs of an array get the same machines"),
    "folder": (["run.dir=100%"], "reads % in the name of a log"),
    "environment": (["slurm.environment=A"], "expected names, each with text"),
    "variable": (["slurm.environment.A=[1]"], "slurm.environment.A: expected text"),
    "name of a variable": (["slurm.environment.MY-NAME=1"], "environment.MY-NAME: 'MY-NAME' cannot name a variable"),
    "digit first": (["slurm.environment={2X: a}"], "'2X' cannot name a variable"),
    "data": (["data.sources.0.path=none.json"], "no such file or folder: none.json"),
}


@pytest.mark.parametrize(("overrides", "expected"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_work_is_refused_before_it_waits(script, overrides, expected):
    with pytest.raises(UserError) as caught:
        prepare("mine.yaml", overrides)
    assert expected in str(caught.value)


def test_mistakes_in_the_sites_file_name_it(script, tmp_path):
    (tmp_path / "slurm.yaml").write_text("partitoin: gpu\n")
    with pytest.raises(UserError, match="slurm.yaml: slurm.partitoin: is not a key"):
        prepare("mine.yaml")
    (tmp_path / "slurm.yaml").unlink()
    with pytest.raises(UserError, match="slurm.yaml: cannot be read"):
        prepare("mine.yaml")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("14400", 14400), ("4:00:00", 14400), ("30:00", 1800), ("1-12", 129600), ("2-00:30", 174600), ("1-0:0:5", 86405)],
)
def test_times(text, seconds):
    assert parse_time(text) == seconds == parse_time(format_time(seconds))


def test_without_slurm_submitting_says_what_else_can_be_done(script, monkeypatch, capsys):
    monkeypatch.setenv("PATH", "/nowhere")
    assert main(["submit", "mine.yaml"]) == 2
    assert "there is no SLURM on this machine" in capsys.readouterr().err
