"""Files and folders are published whole, by one rank or several, or not at all."""

import os
import subprocess
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

from emu2_lit.errors import UserError
from emu2_lit.strategies import AtomicCheckpointIO, clean, discard, is_complete, publish, read_about, tensor_bytes
from tests.distributed import run_ranks


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def write_folder(path: Path, text: str = "shard") -> None:
    (path / "inner").mkdir(parents=True)
    (path / "inner" / "rank_0").write_text(text)
    (path / "meta").write_text("all")


def save_file(path: Path, step: int) -> None:
    state = {"global_step": step, "weight": torch.full((1000,), float(step)), "about": {"recipe": {"a": step}}}
    publish(path, lambda staged: AtomicCheckpointIO().save_checkpoint(state, staged), tensor_bytes(state))


def test_a_file(tmp_path):
    save_file(tmp_path / "step=1.ckpt", 1)
    save_file(tmp_path / "step=2.ckpt", 2)
    assert names(tmp_path) == ["last", "step=1.ckpt", "step=2.ckpt"]
    assert torch.load(tmp_path / "last", weights_only=True)["global_step"] == 2
    assert is_complete(tmp_path / "step=2.ckpt") and read_about(tmp_path / "step=1.ckpt") == {"recipe": {"a": 1}}


def test_a_folder_has_a_manifest(tmp_path):
    path = tmp_path / "step=1.ckpt"
    publish(path, write_folder, about={"recipe": {"a": 1}})
    assert names(path) == ["inner", "manifest.json", "meta"] and names(tmp_path) == ["last", "step=1.ckpt"]
    assert is_complete(path) and read_about(path) == {"recipe": {"a": 1}}
    publish(path, lambda staged: write_folder(staged, "again"))  # a run that went back writes the same step again
    assert is_complete(path) and (path / "inner" / "rank_0").read_text() == "again"


@pytest.mark.parametrize("harm", ["missing", "shorter", "changed", "no manifest", "torn manifest"])
def test_a_damaged_folder_is_none(tmp_path, harm):
    path = tmp_path / "step=1.ckpt"
    publish(path, write_folder)
    shard, manifest = path / "inner" / "rank_0", path / "manifest.json"
    {
        "missing": shard.unlink,
        "shorter": lambda: shard.write_text("sha"),
        "changed": lambda: shard.write_text("Shard"),
        "no manifest": manifest.unlink,
        "torn manifest": lambda: manifest.write_text(manifest.read_text()[:30]),
    }[harm]()
    assert not is_complete(path)


def test_discarded_and_cleaned(tmp_path):
    publish(tmp_path / "step=1.ckpt", write_folder)
    save_file(tmp_path / "step=2.ckpt", 2)
    discard(tmp_path / "step=1.ckpt")
    assert names(tmp_path) == ["last", "step=2.ckpt"]
    write_folder(tmp_path / ".partial" / "step=3.ckpt")  # as a kill leaves it
    clean(tmp_path)
    assert names(tmp_path) == ["last", "step=2.ckpt"]


@pytest.fixture
def small_disk(tmp_path):
    """A real file system of 2 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if os.geteuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", disk]).returncode:
        pytest.skip("a small file system needs the right to mount one")
    yield disk
    subprocess.run(["umount", disk], check=True)


def test_too_little_space_is_seen_before_anything_is_written(small_disk):
    save_file(small_disk / "step=1.ckpt", 1)
    written = []
    with pytest.raises(UserError, match=r"disk: cannot write .*step=2.ckpt: not enough free space.*9,000,000 bytes"):
        publish(small_disk / "step=2.ckpt", written.append, needed=9_000_000)
    assert not written and names(small_disk) == ["last", "step=1.ckpt"]


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_disk_that_fills_up_while_writing(small_disk, kind):
    save_file(small_disk / "step=1.ckpt", 1)
    values = {"weight": torch.zeros(1_000_000)}

    def write(staged: Path) -> None:
        if kind == "file":
            AtomicCheckpointIO().save_checkpoint(values, staged)
        else:
            dcp.save(values, checkpoint_id=staged, no_dist=True)

    with pytest.raises(UserError, match=r"cannot write .* step=2.ckpt.*are free.*previous checkpoint stands"):
        publish(small_disk / "step=2.ckpt", write)
    assert names(small_disk) == ["last", "step=1.ckpt"]
    assert torch.load(small_disk / "last", weights_only=True)["global_step"] == 1
    save_file(small_disk / "step=2.ckpt", 2)  # nothing that failed takes up room


def save_sharded(folder: Path, full: bool) -> tuple[str, list[float]]:
    """Both ranks save a tensor of which each holds half; with `full`, rank 1 finds no room."""
    dist.init_process_group("gloo")
    mesh = init_device_mesh("cpu", (2,))
    weight = distribute_tensor(torch.arange(1000.0), mesh, [Shard(0)])
    assert tensor_bytes({"weight": weight}) == 4000

    def write(staged: Path) -> None:
        dcp.save({"weight": weight}, checkpoint_id=staged)
        if full and dist.get_rank() == 1:
            raise OSError(28, "No space left on device")

    try:
        publish(folder / "step=2.ckpt", write, about={"ranks": 2})
        error = ""
        read = {"weight": distribute_tensor(torch.zeros(1000), mesh, [Shard(0)])}
        dcp.load(read, checkpoint_id=folder / "step=2.ckpt")
        values = read["weight"].full_tensor()[[0, 499, 500, 999]].tolist()
    except UserError as failure:
        error, values = str(failure), []
    dist.destroy_process_group()
    return error, values


def test_two_ranks_publish_a_folder(tmp_path):
    assert run_ranks(save_sharded, 2, tmp_path, False) == [("", [0.0, 499.0, 500.0, 999.0])] * 2
    assert names(tmp_path) == ["last", "step=2.ckpt"] and is_complete(tmp_path / "step=2.ckpt")
    assert {".metadata", "manifest.json", "__0_0.distcp", "__1_0.distcp"} == set(names(tmp_path / "step=2.ckpt"))
    (tmp_path / "step=2.ckpt" / "__1_0.distcp").unlink()
    assert not is_complete(tmp_path / "step=2.ckpt")


def test_all_ranks_fail_where_one_cannot_write(tmp_path):
    save_file(tmp_path / "step=1.ckpt", 1)
    for error, values in run_ranks(save_sharded, 2, tmp_path, True):
        assert "No space left on device" in error and "previous checkpoint stands" in error and not values
    assert names(tmp_path) == ["last", "step=1.ckpt"]
