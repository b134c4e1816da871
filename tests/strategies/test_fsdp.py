"""FSDP and HSDP over real processes: the same run as on one."""

import torch

from tests.distributed import run_ranks
from tests.modules.runs import chat_run


def chat(digits, root, strategy, options):
    """Six steps of a global batch of 8."""
    torch.manual_seed(0)
    return chat_run(digits, root, strategy=strategy, **options)


def assert_same(ran, alone):
    assert ran.losses.keys() == alone.losses.keys()
    for step, loss in alone.losses.items():
        assert abs(ran.losses[step] - loss) < 2e-5 * abs(loss), (step, ran.losses[step], loss)
    assert ran.trained.keys() == alone.trained.keys()
    for name, tensor in alone.trained.items():
        torch.testing.assert_close(ran.trained[name], tensor, rtol=1e-3, atol=1e-5)


def test_lora(digits, tmp_path):
    alone = chat_run(digits, tmp_path / "alone")
    for ran in run_ranks(chat, 2, digits, tmp_path / "two", "fsdp", {"accumulate": 1}):
        assert_same(ran, alone)


def test_full(digits, tmp_path):
    alone = chat_run(digits, tmp_path / "alone", lora=False)
    for ran in run_ranks(chat, 2, digits, tmp_path / "two", "fsdp", {"accumulate": 1, "lora": False, "checkpointing": True}):
        assert_same(ran, alone)
