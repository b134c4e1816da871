"""Every shipped recipe trains: two steps of it, on the tiny preset where its own weights are too large for a test."""

import pytest

from emu2_lit import recipe as recipes
from emu2_lit.run import fit
from tests.run.conftest import short


@pytest.mark.parametrize("name", recipes.names())
def test_two_steps(name, caption_model, tmp_path, episodes):
    values = recipes.read(name)
    overrides = [
        "trainer.max_epochs=null", "trainer.max_steps=2", "trainer.val_check_interval=null", "trainer.accelerator=cpu",
        "trainer.devices=1", "data.micro_batch_size=2", "data.workers=0", "data.validation_limit=4",
    ]  # fmt: skip
    if values["data"]["prepare"] == "episodes":
        overrides.append(f"data.folder={episodes.parent}")
    sizes = [f"types.{place}.batch_size" for place in range(len(values["data"]["types"]))] or ["global_batch_size"]
    overrides += [f"data.{size}=4" for size in sizes]
    overrides += [
        f"{key}={caption_model.parent / 'data' / 'digits' / 'chat_train.json'}" for key in recipes.required_keys(values)
    ]
    if values["model"]["weights"]:
        overrides.append(f"model.weights={caption_model}")
    if values["callbacks"]["answers"]:
        overrides += ["callbacks.answers.limit=4", "callbacks.answers.max_new_tokens=2"]
    result = fit(short(name, tmp_path, *overrides))
    assert result.status == ("dry run" if values["trainer"]["fast_dev_run"] else "finished")
    assert result.summary["steps"] == 2
