"""`fit`: a recipe runs, resumes when finished, and refuses what is wrong before anything is loaded."""

import json
import os
import subprocess
import sys

RECIPE = """\
model: {{preset: tiny, dtype: float32}}
tuning: {{objective: chat, method: lora, lora: {{rank: 4}}}}
data:
  sources: [{{path: {digits}/chat_train.json}}]
  validation: [{{path: {digits}/chat_val.json}}]
  validation_limit: 2
  global_batch_size: 2
  micro_batch_size: 2
  max_length: 256
  workers: 0
trainer: {{max_steps: 2, accelerator: cpu, devices: 1, precision: 32-true, enable_progress_bar: false}}
callbacks: {{answers: null, gradient_check_steps: 0, report: false}}
"""


def test_fit_runs_and_knows_that_it_is_done(emu2_lit, digits, tmp_path):
    (tmp_path / "mine.yaml").write_text(RECIPE.format(digits=digits))
    status, out, _ = emu2_lit("fit", "mine.yaml")
    assert status == 0 and "Result: runs/mine/adapter" in out
    assert json.loads((tmp_path / "runs/mine/summary.json").read_text())["steps"] == 2
    assert (tmp_path / "runs/mine/adapter/adapter_config.json").is_file()
    status, out, _ = emu2_lit("fit", "mine.yaml")
    assert status == 0 and "has already finished" in out


def test_missing_data_is_told_at_once(emu2_lit, tmp_path):
    (tmp_path / "mine.yaml").write_text(RECIPE.format(digits="nowhere"))
    status, _, err = emu2_lit("fit", "mine.yaml")
    assert status == 2 and "data.sources.0.path: no such file or folder: nowhere/chat_train.json" in err
    assert [file.name for file in tmp_path.iterdir()] == ["mine.yaml"]


def test_mistyped_override(emu2_lit):
    status, _, err = emu2_lit("fit", "quickstart/chat", "trainer.max_step=3")
    assert status == 2
    assert "command line: trainer.max_step: is not a key of a recipe; did you mean trainer.max_steps?" in err


def test_a_job_that_has_to_leave_promises_nothing_if_it_was_cancelled(tmp_path):
    """In a process of its own, which leaves at once."""
    code = """
import os, signal, sys
from emu2_lit.signals import early
early.listen()
os.kill(os.getpid(), signal.SIGTERM)
from emu2_lit.cli import main
sys.exit(main(["fit", "quickstart/chat", "data.sources.0.path=."]))
"""
    job = {"SLURM_STEP_ID": "0", "SLURM_PROCID": "0", "EMU2_LIT_JOB": str(tmp_path)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, env=os.environ | job, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("SIGTERM; unless it was cancelled, the job goes on by itself")
    assert (tmp_path / "next").read_text() == "requeue\n"
