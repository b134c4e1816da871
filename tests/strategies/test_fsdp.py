"""FSDP and HSDP over real processes: the same run as on one, and checkpoints that any number of them reads."""

import pytest
import torch
from torch.testing import assert_close

from emu2_lit.strategies.sharded_files import read_outline, read_whole
from tests.distributed import run_ranks
from tests.modules.runs import STEPS, chat_run

HALF = STEPS // 2


def chat(digits, root, strategy, options):
    """Six steps of a global batch of 8."""
    return chat_run(digits, root, strategy=strategy, **options)


def assert_same(ran, alone):
    for step, loss in ran.losses.items():
        assert loss == pytest.approx(alone.losses[step], rel=2e-5), f"step {step}"
    assert ran.trained.keys() == alone.trained.keys()
    for name, tensor in ran.trained.items():
        assert_close(tensor, alone.trained[name], rtol=1e-3, atol=2e-5, msg=name)


@pytest.fixture(scope="module")
def lora(digits, tmp_path_factory):
    return chat_run(digits, tmp_path_factory.mktemp("lora"))


@pytest.fixture(scope="module")
def half(digits, tmp_path_factory):
    """Where two ranks were stopped after half of the steps."""
    folder = tmp_path_factory.mktemp("half")
    return run_ranks(chat, 2, digits, folder, "fsdp", {"accumulate": 1, "stop": HALF})


def test_lora_on_two_ranks_goes_on_on_two_and_on_one(digits, tmp_path, lora, half):
    checkpoint = half[0].checkpoint
    outline = read_outline(checkpoint)["state_dict"]
    assert outline.keys() == half[0].trained.keys()  # what trains, and nothing else
    for name, tensor in read_whole(checkpoint)["state_dict"].items():
        assert torch.equal(tensor, half[0].trained[name])
    resumed = run_ranks(chat, 2, digits, tmp_path / "two", "fsdp", {"accumulate": 1, "resume": checkpoint})
    alone = chat_run(digits, tmp_path / "alone", micro=8, accumulate=1, resume=checkpoint)
    for ran in (*resumed, alone):
        assert sorted({**half[0].losses, **ran.losses}) == sorted(lora.losses)
        assert_same(ran, lora)


def test_a_run_of_one_process_goes_on_on_two(digits, tmp_path, lora):
    begun = chat_run(digits, tmp_path, stop=HALF)
    for ran in run_ranks(chat, 2, digits, tmp_path, "fsdp", {"accumulate": 1, "resume": begun.checkpoint}):
        assert_same(ran, lora)


def test_full_with_checkpointing_and_a_rehearsal(digits, tmp_path):
    alone = chat_run(digits, tmp_path / "alone", lora=False)
    options = {"accumulate": 1, "lora": False, "checkpointing": True, "rehearsed": True}
    for ran in run_ranks(chat, 2, digits, tmp_path / "two", "fsdp", options):
        assert_same(ran, alone)


def test_four_processes_in_groups_of_two(digits, tmp_path, lora):
    for ran in run_ranks(chat, 4, digits, tmp_path, "hsdp", {"micro": 2, "accumulate": 1}):
        assert_same(ran, lora)
