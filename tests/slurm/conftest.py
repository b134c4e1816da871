"""The cluster, a small recipe, and how tests follow a job."""

import hashlib
from pathlib import Path

import pytest

from emu2_lit.cli import main
from emu2_lit.slurm.folder import job_id_of, read_json
from tests.slurm.mini import INSTALL, MiniSlurm, missing, wait_for

# Dropout and data workers: what a resume must get right, and what a signal must not kill.
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
trainer: {{max_steps: {steps}, accelerator: cpu, devices: 1, precision: 32-true, enable_progress_bar: false}}
callbacks: {{answers: null, report: false, checkpoint_every_n_steps: 10}}
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

    def __init__(self, cluster: MiniSlurm, recipe: Path):
        self.cluster, self.recipe = cluster, recipe

    def submit(self, run: str, *overrides: str) -> str:
        """The number of the job."""
        assert main(["submit", str(self.recipe), f"run.dir={run}", *overrides]) == 0
        return job_id_of(Path(run))

    def log(self, run: str) -> str:
        return "\n".join(path.read_text() for path in sorted(Path(run).glob("slurm/*.log")))

    def told(self, run: str) -> str:
        return f"{self.log(run)}\n{self.cluster.logs()}"

    def wait_for_status(self, run: str, seconds: float = 120, **wanted) -> dict:
        """Until `status.json` says so."""
        path = Path(run) / "status.json"
        return wait_for(
            lambda: (found := read_json(path)) and wanted.items() <= found.items() and found, seconds,
            lambda: self.told(run),
        )  # fmt: skip

    def wait_for_checkpoint(self, run: str, seconds: float = 120) -> None:
        """Until the run is well under way."""
        wait_for(lambda: list(Path(run).glob("checkpoints/step=*.ckpt")), seconds, lambda: self.told(run))

    def wait_for_state(self, run: str, job: str, *states: str, seconds: float = 120) -> None:
        """Until SLURM says so of the job."""
        told = lambda: f"{self.cluster.show(job)}\n{self.told(run)}"  # noqa: E731
        wait_for(lambda: self.cluster.state(job) in states, seconds, told)


@pytest.fixture
def jobs(cluster, digits, tmp_path, monkeypatch) -> Jobs:
    """A current folder with the recipe, from where jobs are submitted."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SLURM_CONF", str(cluster.configuration))
    monkeypatch.setenv("EMU2_LIT_SLURM", str(tmp_path / "site.yaml"))
    (tmp_path / "site.yaml").write_text("partition: debug\n")
    (tmp_path / "mine.yaml").write_text(RECIPE.format(digits=digits, steps=40))
    return Jobs(cluster, tmp_path / "mine.yaml")


def weights(run: str) -> str:
    """A digest of what a run has learned."""
    return hashlib.sha256((Path(run) / "adapter" / "adapter_model.safetensors").read_bytes()).hexdigest()
