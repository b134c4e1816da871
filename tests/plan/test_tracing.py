"""The step without memory: four blocks stand for all, and its work is what theory says."""

from types import SimpleNamespace

import pytest
import torch

from emu2_lit import plan as planning
from emu2_lit.errors import UserError
from emu2_lit.model import Emu2Config
from emu2_lit.model.tensor_share import tensor_share
from emu2_lit.plan import Layout, Workload
from emu2_lit.plan.network import LM, REST, TOWER, FourBitLinear
from tests.plan.measuring import Case

CHAT = SimpleNamespace(tokenizer=SimpleNamespace(chat=True))


def configured(case: Case, config: Emu2Config):
    module = case.module(planning.meta_model(config, case.dtype, None), CHAT)
    with torch.device("meta"):
        module.configure_model()
    return module


def phases(case: Case, config: Emu2Config, load: Workload):
    return planning.trace(configured(case, config), config, load, autocast=case.autocast)


@pytest.mark.parametrize(
    "case",
    [
        Case("small", mixed=True),
        Case("small", "caption", lora=False, mixed=True, checkpointing=True),
        Case("small", "caption", lora=False),
    ],
    ids=str,
)
def test_four_blocks_tell_of_all(case):
    whole, load = case.config, Workload(2, 200, images=2)
    traced = phases(case, whole, load)
    short = phases(case, planning.shortened(whole), load)
    unfolded = planning.unfold(short, planning.depths(whole))
    assert [(p.name, p.block, p.flops) for p in unfolded] == [(p.name, p.block, p.flops) for p in traced]
    for figure in ("held", "peak", "gradients"):
        assert [getattr(p, figure) for p in unfolded] == pytest.approx([getattr(p, figure) for p in traced], abs=64)


def test_a_shortened_network_counts_as_the_whole():
    config = Emu2Config.preset("emu2-chat")
    network = planning.measure(planning.meta_model(planning.shortened(config), torch.bfloat16, None), config)
    assert network.trained == 36_906_654_464  # the published weights
    assert network.counts == {TOWER: 64, LM: 60, REST: 1}


@pytest.mark.parametrize(("lora", "passes"), [(True, 2), (False, 3)])
def test_work(lora, passes):
    """2N a pass for the forward; LoRA computes no gradients of the frozen weights: 4N in all, and 6N in full."""
    config = Emu2Config.preset("emu2-chat")
    load = Workload(1, 256, images=0, learned=256)
    case = Case("emu2-chat", lora=lora, mixed=True, frozen=("visual", "project_up", "project_down"))
    traced = phases(case, planning.shortened(config), load)
    work = planning.work(planning.unfold(traced, planning.depths(config)), checkpointing=False)
    matrices = 60 * 535_035_904 + 32274 * 6656  # of the blocks, and the head
    assert work.total == pytest.approx(2 * passes * matrices * load.tokens, rel=0.02)


def test_checkpointing_recomputes_the_blocks():
    config, load = Emu2Config.preset("tiny").with_role_tokens(), Workload(1, 64, images=0)
    plain = phases(Case("tiny"), config, load)
    again = phases(Case("tiny", checkpointing=True), config, load)
    work = planning.work(again, checkpointing=True)
    assert work.total - work.recomputed == pytest.approx(planning.work(plain, checkpointing=False).total, rel=0.02)
    assert work.recomputed > 0.2 * work.total


def test_four_bits_take_what_bitsandbytes_takes():
    nn = pytest.importorskip("bitsandbytes.nn")
    linear = torch.nn.Linear(512, 256, bias=False)
    state = nn.Params4bit(linear.weight.data, requires_grad=False, quant_type="nf4").to("cpu").quant_state
    tensors = [state.absmax, state.state2.absmax]
    real = 512 * 256 // 2 + sum(tensor.nbytes for tensor in tensors)
    with torch.device("meta"):
        planned = FourBitLinear(linear)
    assert sum(t.nbytes for t in [*planned.parameters(), *planned.buffers()]) == real


def layout(strategy: str, devices: int, **more) -> Layout:
    config, case = Emu2Config.preset("emu2-chat"), Case("emu2-chat", lora=False, mixed=True)
    module = configured(case, planning.shortened(tensor_share(config, more.get("tensor_parallel", 1))))
    return Layout(planning.measure(module.model, config), strategy, devices, **more)


def test_strategies_divide_the_state():
    single, ddp, sharded = layout("auto", 1), layout("ddp", 8), layout("fsdp", 8)
    trained = single.network.trained
    assert sum(single.weights().values()) == pytest.approx(4 * trained + 8.74e9, rel=0.01)
    assert single.optimizer_state() == 8 * trained and single.gradients() == 4 * trained
    assert ddp.weights() == single.weights() and ddp.gradients() == 2 * single.gradients()
    assert sharded.optimizer_state() == trained and sharded.gradients() == trained // 2
    assert sharded.gathered(backward=False) == pytest.approx(2 * 2 * 535e6 + 0.43e9 * 2 + 0.02e9, rel=0.05)
    assert single.gathered(backward=True) == 0
    assert layout("auto", 1, optimizer="adamw_8bit").optimizer_state() < single.optimizer_state() / 3
    with pytest.raises(UserError, match="adamw_8bit cannot be divided by fsdp"):
        layout("fsdp", 8, optimizer="adamw_8bit")


def test_hsdp_shards_within_a_node():
    assert layout("hsdp", 16, nodes=2).weights() == layout("fsdp", 8).weights()
    assert layout("hsdp", 16).shards == 8


def test_groups_divide_the_blocks_and_all_ranks_the_rest():
    """A device of a group has half of each product, and in all as much as without groups."""
    plain, groups = layout("fsdp", 8), layout("fsdp", 8, tensor_parallel=2)
    assert groups.optimizer_state() == pytest.approx(plain.optimizer_state(), rel=1e-3)
    assert groups.weights()["trained"] == pytest.approx(plain.weights()["trained"], rel=1e-3)
    assert groups.gathered(backward=False) < 0.7 * plain.gathered(backward=False)
    assert groups.update(fused=False, gpu=True) < plain.update(fused=False, gpu=True)


def test_engines_keep_a_copy_in_float32():
    second, third = layout("deepspeed_stage_2", 8), layout("deepspeed_stage_3", 8)
    trained = second.network.trained
    assert second.weights()["trained"] == 2 * trained and third.weights()["trained"] == 2 * trained // 8
    assert second.optimizer_state() == third.optimizer_state() == 12 * trained // 8
    assert layout("deepspeed_stage_3_offload", 8).optimizer_state() == 0
