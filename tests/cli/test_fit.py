"""`fit`: a recipe runs, resumes when finished, and refuses what is wrong before anything is loaded."""

import json

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
