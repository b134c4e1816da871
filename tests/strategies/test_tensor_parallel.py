"""Tensor parallelism over real processes: the same run as on one, and checkpoints that any layout reads."""

import pytest
import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

from emu2_lit.model import Emu2Config
from emu2_lit.strategies.shard import piece, whole
from tests.distributed import run_ranks
from tests.modules.runs import STEPS, chat_run
from tests.strategies.test_fsdp import assert_same

HALF = STEPS // 2
LARGE = {"micro": 8, "accumulate": 1}


def chat(digits, root, tensor_parallel, options):
    """Six steps of a global batch of 8, of all weights."""
    return chat_run(digits, root, strategy="fsdp", tensor_parallel=tensor_parallel, lora=False, **options)


@pytest.fixture(scope="module")
def alone(digits, tmp_path_factory):
    return chat_run(digits, tmp_path_factory.mktemp("alone"), lora=False)


@pytest.fixture(scope="module")
def half(digits, tmp_path_factory):
    """Where four ranks, two groups of two, were stopped after half of the steps."""
    return run_ranks(chat, 4, digits, tmp_path_factory.mktemp("half"), 2, {"accumulate": 1, "stop": HALF})


def test_two_groups_of_two_go_on_in_any_layout(digits, tmp_path, alone, half):
    checkpoint = half[0].checkpoint
    assert half[0].norm == pytest.approx(alone.norm, rel=1e-5)
    together = run_ranks(chat, 2, digits, tmp_path / "together", 2, {**LARGE, "resume": checkpoint})
    divided = run_ranks(chat, 2, digits, tmp_path / "divided", 1, {"accumulate": 1, "resume": checkpoint})
    single = chat_run(digits, tmp_path / "single", lora=False, resume=checkpoint, **LARGE)
    for ran in (*together, *divided, single):
        assert sorted({**half[0].losses, **ran.losses}) == sorted(alone.losses)
        assert_same(ran, alone)


def test_a_run_of_one_process_goes_on_in_groups(digits, tmp_path, alone):
    begun = chat_run(digits, tmp_path, lora=False, stop=HALF)
    for ran in run_ranks(chat, 2, digits, tmp_path, 2, {"resume": begun.checkpoint}):
        assert_same(ran, alone)


def test_four_ranks_on_the_same_samples_with_checkpointing_and_a_rehearsal(digits, tmp_path, alone):
    for ran in run_ranks(chat, 4, digits, tmp_path, 4, {"checkpointing": True, "rehearsed": True}):
        assert_same(ran, alone)


def test_mixed_precision(digits, tmp_path):
    alone = chat_run(digits, tmp_path / "alone", lora=False, precision="bf16-mixed")
    for ran in run_ranks(chat, 2, digits, tmp_path / "two", 2, {"precision": "bf16-mixed"}):
        assert ran.losses == pytest.approx(alone.losses, rel=1e-2)


def pieces() -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Of layers that do not divide evenly, what torch gives this rank and what we take, and the whole and ours."""
    mesh = init_device_mesh("cpu", (3, 2), mesh_dim_names=("data", "tensor"))
    torch.manual_seed(0)
    layers = torch.nn.Sequential(torch.nn.Linear(5, 14, bias=False), torch.nn.Linear(14, 7, bias=False))
    tensors = [layer.weight.detach().clone() for layer in layers]
    parallelize_module(layers, mesh["tensor"], {"0": ColwiseParallel(), "1": RowwiseParallel()})
    fully_shard(layers, mesh=mesh["data"])
    divided: list[DTensor] = [layer.weight for layer in layers]
    pairs = list(zip(divided, tensors, strict=True))
    own = [
        (weight.to_local().detach(), piece(tensor, weight.device_mesh, weight.placements)) for weight, tensor in pairs
    ]
    return own + [(tensor, whole(weight).detach()) for weight, tensor in pairs]


def test_pieces_are_those_that_torch_gives():
    for rank in run_ranks(pieces, 6):
        for theirs, ours in rank:
            assert torch.equal(theirs, ours)


def refused(digits, root) -> str:
    from emu2_lit.errors import UserError

    with pytest.raises(UserError) as caught:
        chat(digits, root, 3, {})
    return str(caught.value)


def test_heads_that_do_not_divide_are_named(digits, tmp_path):
    heads = Emu2Config.preset("tiny").text_config.num_attention_heads
    for told in run_ranks(refused, 3, digits, tmp_path):
        assert f"trainer.tensor_parallel=3: the language model has {heads} attention heads" in told
