"""The cluster, a small recipe, and how tests follow a job."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from emu2_lit import recipe as recipes
from emu2_lit.cli import main
from emu2_lit.run import fit
from emu2_lit.slurm.folder import job_id_of, read_json
from tests.slurm.mini import INSTALL, MiniSlurm, missing, wait_for

# Dropout and data workers: what a resume must get right, and what a signal must not kill.
STEPS = 60
RECIPE = """\
model: {{preset: tiny, dtype: float32}}
tuning: {{objective: chat, method: lora, lora: {{rank: 4, dropout: 0.1}}}}
data:
  sources: [{{path: {digits}/chat_train.json}}]
  global_batch_size: 4
  micro_batch_size: 2
  max_length: 256
  workers: 1
optimizer: {{lr: 1.0e-3, warmup_steps: 2}}
trainer: {{max_steps: {steps}, accelerator: cpu, devices: 1, precision: 32-true, enable_progress_bar: false,
  check_memory: false}}
callbacks: {{answers: null, report: false, gradient_check_steps: 0, checkpoint_every_n_steps: 10}}
run: {{logger: [csv]}}
slurm: {{time: "10:00", signal_lead: 30, environment: {{OMP_NUM_THREADS: "1"}}}}
"""


@pytest.fixture(scope="session")
def cluster():
    """A SLURM of two nodes; only `make test-slurm` asks for it."""
    assert not (absent := missing()), f"SLURM is not installed ({', '.join(absent)} missing); {INSTALL}"
    mini = MiniSlurm()
    try:
        mini.start()
        yield mini
    finally:
        mini.stop()


class Jobs:
    """Submits the recipe in a folder of its own and follows what it becomes."""

    def __init__(self, cluster: MiniSlurm, recipe: Path, validation: Path):
        self.cluster, self.recipe, self.validation = cluster, recipe, validation

    def submit(self, run: str, *overrides: str) -> str:
        """The number of the job."""
        assert main(["submit", str(self.recipe), f"run.dir={run}", *overrides]) == 0
        return job_id_of(Path(run))

    def log(self, run: str) -> str:
        return "\n".join(path.read_text() for path in sorted(Path(run).glob("slurm/*.log")))

    def told(self, run: str) -> str:
        return f"{self.log(run)}\n{self.cluster.logs()}"

    def wait_for_status(self, run: str, seconds: float = 240, **wanted) -> dict:
        """Until `status.json` says so."""
        path = Path(run) / "status.json"
        return wait_for(
            lambda: (found := read_json(path)) and wanted.items() <= found.items() and found, seconds,
            lambda: self.told(run),
        )  # fmt: skip

    def wait_for_checkpoint(self, run: str, seconds: float = 240) -> None:
        """Until the run is well under way; checkpoints from before it was submitted tell nothing."""
        submitted = (Path(run) / "slurm" / "recipe.yaml").stat().st_mtime
        found = lambda: [path for path in Path(run).glob("checkpoints/step=*.ckpt") if written(path) > submitted]  # noqa: E731
        wait_for(found, seconds, lambda: self.told(run))

    def wait_for_state(self, run: str, job: str, *states: str, seconds: float = 240) -> None:
        """Until SLURM says so of the job."""
        told = lambda: f"{self.cluster.show(job)}\n{self.told(run)}"  # noqa: E731
        wait_for(lambda: self.cluster.state(job) in states, seconds, told)


@pytest.fixture(scope="module")
def jobs(cluster, digits, tmp_path_factory) -> Iterator[Jobs]:
    """A current folder with the recipe, from where jobs are submitted. All tests share it: some jobs outlast one."""
    folder = tmp_path_factory.mktemp("jobs")
    (folder / "site.yaml").write_text("partition: debug\n")
    (folder / "mine.yaml").write_text(RECIPE.format(digits=digits, steps=STEPS))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("SLURM_CONF", str(cluster.configuration))
        patch.setenv("EMU2_LIT_SLURM", str(folder / "site.yaml"))
        yield Jobs(cluster, folder / "mine.yaml", digits / "chat_val.json")


@pytest.fixture(scope="module")
def straight(jobs) -> str:
    """A run that nobody disturbed, outside SLURM."""
    fit(recipes.load(jobs.recipe, ["run.dir=straight", "callbacks.keep_checkpoints=10"]))
    return "straight"


def starts(run: str) -> list[int]:
    """The step from which each start of the job went on."""
    lines = (Path(run) / "slurm" / "attempts.jsonl").read_text().splitlines()
    return [json.loads(line)["step"] for line in lines]


def written(path: Path) -> float:
    """When; 0 for a checkpoint that has just been replaced by newer ones."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0


def weights(run: str) -> str:
    """A digest of what a run has learned."""
    return hashlib.sha256((Path(run) / "adapter" / "adapter_model.safetensors").read_bytes()).hexdigest()
