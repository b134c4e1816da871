"""Checkpoints are whole or not there."""

import os
import signal
import subprocess
import sys
import textwrap

import pytest
import torch

from emu2_lit.errors import UserError
from emu2_lit.strategies import AtomicCheckpointIO


def test_writes_what_it_is_given(tmp_path):
    AtomicCheckpointIO().save_checkpoint({"weight": torch.ones(3)}, tmp_path / "sub" / "a.ckpt")
    assert [path.name for path in (tmp_path / "sub").iterdir()] == ["a.ckpt"]
    assert torch.load(tmp_path / "sub" / "a.ckpt", weights_only=True)["weight"].sum() == 3


def test_a_failed_write_leaves_the_previous_one(tmp_path):
    path = tmp_path / "a.ckpt"
    AtomicCheckpointIO().save_checkpoint({"step": 1}, path)

    class Full:
        def __reduce__(self):
            raise OSError(28, "No space left on device")

    with pytest.raises(UserError, match="No space left on device.*previous one stands"):
        AtomicCheckpointIO().save_checkpoint({"step": 2, "bad": Full()}, path)
    assert torch.load(path, weights_only=True) == {"step": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["a.ckpt"]


def test_a_folder_that_is_a_file(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write the checkpoint"):
        AtomicCheckpointIO().save_checkpoint({}, tmp_path / "file" / "a.ckpt")


def test_killed_while_it_writes(tmp_path):
    """The previous checkpoint stands when the process dies at any byte of the next."""
    program = textwrap.dedent("""
        import sys, torch
        from emu2_lit.strategies import AtomicCheckpointIO
        save, path = AtomicCheckpointIO().save_checkpoint, sys.argv[1]
        save({"step": 0, "weight": torch.zeros(2_000_000)}, path)
        print("saved", flush=True)
        step = 0
        while True:
            step += 1
            save({"step": step, "weight": torch.full((2_000_000,), float(step))}, path)
    """)
    for delay in (0.03, 0.1):
        path = tmp_path / "a.ckpt"
        process = subprocess.Popen([sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE)
        assert process.stdout.readline() == b"saved\n"
        try:
            process.wait(timeout=delay)
        except subprocess.TimeoutExpired:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
        state = torch.load(path, weights_only=True)
        assert (state["weight"] == state["step"]).all()
