"""What several tests share."""

from pathlib import Path

import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Two processes with two threads each on two cores are many times slower than one each."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def episodes(tmp_path_factory) -> Path:
    """The folder of the in-context data, made once."""
    from datamodules.episodes import prepare

    return prepare(tmp_path_factory.mktemp("data") / "episodes")


@pytest.fixture(scope="session")
def digits(tmp_path_factory) -> Path:
    """The folder of the quickstart's data, made once."""
    from datamodules.digits import prepare

    folder = tmp_path_factory.mktemp("data") / "digits"
    prepare(folder)
    return folder


@pytest.fixture(scope="session")
def drawings(tmp_path_factory) -> Path:
    """The folder of the data to learn drawing from, made once."""
    from datamodules.drawings import prepare

    return prepare(tmp_path_factory.mktemp("data") / "drawings")
