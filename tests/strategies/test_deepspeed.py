"""DeepSpeed over real processes: the same run as on one without it, and checkpoints that go on and are exported."""

import sys

import pytest
import torch

from emu2_lit.errors import UserError
from emu2_lit.strategies import AtomicCheckpointIO
from emu2_lit.strategies.choose import build_strategy
from emu2_lit.strategies.engine_files import read_about_engine, read_trained
from tests.distributed import run_ranks
from tests.modules.runs import STEPS, chat_run
from tests.strategies.test_fsdp import assert_same, chat

HALF = STEPS // 2
STAGES = ("deepspeed_stage_2", "deepspeed_stage_3")


@pytest.fixture(scope="module")
def lora(digits, tmp_path_factory):
    return chat_run(digits, tmp_path_factory.mktemp("lora"))


@pytest.fixture(scope="module", params=STAGES)
def half(digits, tmp_path_factory, request):
    """Where two ranks were stopped after half of the steps."""
    folder = tmp_path_factory.mktemp("half")
    return request.param, run_ranks(chat, 2, digits, folder, request.param, {"accumulate": 1, "stop": HALF})


def test_lora_on_two_ranks_goes_on_on_two_and_on_one(digits, tmp_path, lora, half):
    stage, begun = half
    checkpoint = begun[0].checkpoint
    assert read_about_engine(checkpoint)["trained"].keys() == begun[0].trained.keys()  # what trains, and nothing else
    for name, tensor in read_trained(checkpoint).items():
        assert torch.equal(tensor, begun[0].trained[name])
    resumed = run_ranks(chat, 2, digits, tmp_path / "two", stage, {"accumulate": 1, "resume": checkpoint})
    alone = run_ranks(chat, 1, digits, tmp_path / "one", stage, {"micro": 8, "accumulate": 1, "resume": checkpoint})
    for ran in (*resumed, *alone):
        assert sorted({**begun[0].losses, **ran.losses}) == sorted(lora.losses)
        assert_same(ran, lora)


@pytest.mark.parametrize("stage", STAGES)
def test_a_run_of_one_rank_goes_on_on_two(digits, tmp_path, lora, stage):
    (begun,) = run_ranks(chat, 1, digits, tmp_path / "one", stage, {"micro": 8, "accumulate": 1, "stop": HALF})
    options = {"accumulate": 1, "resume": begun.checkpoint}
    for ran in run_ranks(chat, 2, digits, tmp_path / "two", stage, options):
        assert sorted({**begun.losses, **ran.losses}) == sorted(lora.losses)
        assert_same(ran, lora)


@pytest.mark.parametrize("stage", STAGES)
def test_full_with_accumulation(digits, tmp_path, stage):
    alone = chat_run(digits, tmp_path / "alone", lora=False)
    options = {"accumulate": 2, "micro": 2, "lora": False, "rehearsed": True}
    for ran in run_ranks(chat, 2, digits, tmp_path / "two", stage, options):
        assert_same(ran, alone)
        assert ran.norm == pytest.approx(alone.norm, rel=1e-4)  # AdamW's updates hide its scale, clipping does not


def test_other_strategies_say_who_wrote_it(half):
    stage, begun = half
    with pytest.raises(UserError, match=f"only trainer.strategy={stage} goes on from it"):
        AtomicCheckpointIO().load_checkpoint(begun[0].checkpoint)


def test_without_deepspeed(monkeypatch):
    monkeypatch.setitem(sys.modules, "deepspeed", None)
    with pytest.raises(UserError, match=r"deepspeed_stage_3: DeepSpeed is not installed; pip install"):
        build_strategy("deepspeed_stage_3_offload", None)
