"""A disk that fills up, or cannot be written to, ends a run with one message, and what was saved stands."""

import os
import shutil
import subprocess

import pytest

from callbacks import find_last_checkpoint
from emu2_lit.cli import main
from emu2_lit.errors import UserError
from emu2_lit.run import fit
from tests.run.conftest import short

MEGABYTE = 1 << 20


@pytest.fixture
def disk(tmp_path):
    """A real file system of 40 MB: a checkpoint of this run takes 15."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.geteuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=40m", "tmpfs", folder]).returncode:
        pytest.skip("a small file system needs the right to mount one")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def overrides(disk, tmp_path):
    return [
        f"run.dir={disk / 'run'}", f"data.folder={tmp_path / 'data'}", "trainer.max_steps=6", "data.validation_limit=8",
        "data.global_batch_size=8", "data.micro_batch_size=8", "callbacks.checkpoint_every_n_steps=2",
        "callbacks.keep_checkpoints=9", "trainer.log_every_n_steps=1",
    ]  # fmt: skip


def fill(disk, leave: int):
    with open(disk / "other", "wb") as file:
        file.write(b"x" * (shutil.disk_usage(disk).free - leave))


def test_no_room_for_the_next_checkpoint(disk, tmp_path, capsys):
    wanted = overrides(disk, tmp_path)
    assert main(["fit", "quickstart/caption", *wanted]) == 2
    told = capsys.readouterr().err
    assert "emu2-lit: " in told and "cannot write the checkpoint step=0000006.ckpt: not enough free space" in told
    assert str(disk / "run" / "checkpoints") in told and "bytes are free" not in told and "are free" in told
    assert find_last_checkpoint(disk / "run" / "checkpoints").name == "step=0000004.ckpt"
    (disk / "run" / "checkpoints" / "step=0000002.ckpt").unlink()
    assert main(["fit", "quickstart/caption", *wanted[:-2], "callbacks.keep_checkpoints=1"]) == 0


def test_no_room_for_anything(disk, tmp_path):
    """The logs and the ledger fail before any checkpoint does."""
    recipe = short("quickstart/caption", tmp_path, *overrides(disk, tmp_path)[2:], f"run.dir={disk / 'run'}")
    fill(disk, leave=16 * 1024)
    with pytest.raises(UserError, match=r"disk/run.*No space left on device.*free.*the same command"):
        fit(recipe)


def test_a_folder_that_cannot_be_written_to(disk, tmp_path):
    recipe = short("quickstart/caption", tmp_path, *overrides(disk, tmp_path)[2:], f"run.dir={disk / 'run'}")
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    with pytest.raises(UserError, match=r"disk/run.*Read-only file system"):
        fit(recipe)
