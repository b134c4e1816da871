"""What may change between a checkpoint and the run that goes on from it."""

from dataclasses import asdict

import pytest

from emu2_lit import recipe as recipes
from emu2_lit.errors import UserError
from emu2_lit.recipe.changes import ABSENT, FREE, changes, needs_consent, unknown_keys


def test_differences_by_key():
    before = asdict(recipes.load("quickstart/chat"))
    overrides = ["data.seed=3", "trainer.max_steps=9", "tuning.lora.targets=[q_proj]"]
    now = asdict(recipes.load("quickstart/chat", overrides))
    found = changes(before, now)
    assert found["data.seed"] == (0, 3) and found["trainer.max_steps"] == (250, 9)
    assert found.keys() == {"data.seed", "trainer.max_steps", "tuning.lora.targets"}
    more = asdict(recipes.load("quickstart/chat", ["data.sources.1.path=b.json"]))
    assert changes(before, more)["data.sources.1.path"] == (ABSENT, "b.json")


def test_a_key_that_the_checkpoint_did_not_know_has_its_default():
    before, now = asdict(recipes.load("quickstart/chat")), asdict(recipes.load("quickstart/chat"))
    del before["tuning"]["lora"]["use_dora"], before["evaluation"]
    assert changes(before, now) == {}


@pytest.mark.parametrize(
    "key",
    ["data.seed", "run.seed", "data.sources.0.limit", "data.sources.1.weight", "data.global_batch_size", "data.types",
     "data.max_length", "trainer.precision", "model.weights", "model.quantization", "tuning.objective",
     "tuning.lora.rank", "tuning.frozen", "optimizer.lr", "trainer.gradient_clip_val"],
)  # fmt: skip
def test_what_changes_the_result_needs_consent(key):
    assert needs_consent(key)


@pytest.mark.parametrize(
    "key",
    ["trainer.max_steps", "trainer.devices", "callbacks.checkpoint_every_n_steps", "data.workers", "run.dir",
     "data.micro_batch_size", "data.sources.0.path", "run.logger", "evaluation.shots", "resume.checkpoint"],
)  # fmt: skip
def test_what_does_not_is_free(key):
    assert not needs_consent(key)


def test_all_free_keys_are_keys():
    assert not unknown_keys(key.replace("sources.", "sources.0.") for key in FREE)


def test_unknown_keys_cannot_be_allowed():
    assert recipes.load("quickstart/chat", ["resume.allow=[data, data.seed, data.sources.2.limit]"]).resume.allow
    with pytest.raises(UserError, match=r"resume.allow: data.sed is neither a key nor a section"):
        recipes.load("quickstart/chat", ["resume.allow=[data.sed]"])


@pytest.mark.parametrize(
    ("overrides", "checkpoint", "allow"),
    [
        ([], "auto", []),
        (["resume=never"], "never", []),
        (["resume=a/b.ckpt", "resume.allow=[data.seed]"], "a/b.ckpt", ["data.seed"]),
        (["resume.allow=[data.seed]", "resume=never"], "never", ["data.seed"]),
        (["resume.checkpoint=never"], "never", []),
        (["resume={checkpoint: never, allow: [model]}"], "never", ["model"]),
    ],
)
def test_short_and_long_forms(overrides, checkpoint, allow):
    resume = recipes.load("quickstart/chat", overrides).resume
    assert (resume.checkpoint, resume.allow) == (checkpoint, allow)


def test_the_short_form_in_a_file(tmp_path):
    file = tmp_path / "mine.yaml"
    sections = ("model: {preset: tiny}", "data: {sources: [{path: a.json}]}", "trainer: {max_steps: 3}")
    file.write_text("\n".join([*sections, "resume: never"]))
    assert recipes.load(file).resume.checkpoint == "never"
    assert recipes.load(file, ["resume.allow=[data]"]).resume.checkpoint == "never"
    recipes.save(recipes.load(file), tmp_path / "saved.yaml")
    assert recipes.load(tmp_path / "saved.yaml") == recipes.load(file, ["run.name=mine"])
