"""A finished short quickstart, shared by the tests that look at what a run leaves."""

from pathlib import Path

import pytest

from emu2_lit import recipe as recipes
from emu2_lit.run import RunResult, fit


def short(name: str, folder: Path, *overrides: str):
    """A shipped recipe, cut to a few steps, with all it writes under `folder`."""
    return recipes.load(name, [f"run.dir={folder / 'run'}", f"data.folder={folder / 'data'}", *overrides])


@pytest.fixture(scope="session")
def caption_model(tmp_path_factory) -> Path:
    """The caption recipe's run folder after a few steps."""
    folder = tmp_path_factory.mktemp("caption")
    fit(short("quickstart/caption", folder, "trainer.max_steps=4", "data.validation_limit=8", "run.logger=[csv]"))
    return folder / "run"


@pytest.fixture(scope="session")
def chat_folder(caption_model, tmp_path_factory) -> Path:
    """Where the chat run of `chat_result` and its data lie."""
    return tmp_path_factory.mktemp("chat")


def chat_recipe(folder: Path, base: Path, *overrides: str):
    """A chat run of six steps on top of `base`."""
    return short(
        "quickstart/chat", folder, f"model.weights={base}", "trainer.max_steps=6", "trainer.val_check_interval=4",
        "callbacks.checkpoint_every_n_steps=2", "callbacks.answers.limit=8", "callbacks.answers.max_new_tokens=4",
        "data.global_batch_size=8", "data.micro_batch_size=4", "data.validation_limit=8",
        "trainer.log_every_n_steps=1", *overrides,
    )  # fmt: skip


@pytest.fixture(scope="session")
def chat_result(chat_folder, caption_model) -> RunResult:
    """The chat run, finished."""
    return fit(chat_recipe(chat_folder, caption_model))
