"""The work of samples, which MFU is reckoned from."""

import pytest

from emu2_lit.model.objective import IGNORE
from emu2_lit.plan import gpu_rate
from emu2_lit.run.plan import network_config, open_recipe, plan, work_of_samples

TINY = ["model.preset=tiny", "model.weights=null", "data.micro_batch_size=4", "data.max_length=96"]


@pytest.mark.parametrize("method", ["lora", "full"])
def test_it_is_that_of_the_plan_at_any_length_and_number(method):
    recipe = open_recipe("quickstart/chat", [*TINY, f"tuning.method={method}", "tuning.lora.dropout=0.05"])
    planned, length = plan(recipe), 96
    load = planned.workload
    assert (load.samples, load.length, load.images) == (4, length, 1)
    labels = load.batch(network_config(recipe.model)[0])["labels"]
    learned = (labels != IGNORE).sum()
    made = work_of_samples(recipe).of(tokens=4 * length, pairs=4 * length**2, pictures=4, learned=int(learned))
    assert made == pytest.approx(planned.work.total, rel=1e-6)


def test_recomputing_is_no_work_of_the_model():
    plain, again = (
        work_of_samples(open_recipe("quickstart/chat", [*TINY, f"tuning.activation_checkpointing={on}"]))
        for on in ("false", "true")
    )
    assert plain == again


def test_adapters_take_four_operations_a_weight_and_token():
    """Of the published size; its blocks hold 32.2e9 weights in matrices."""
    assert work_of_samples(open_recipe("chat/qlora")).token == pytest.approx(4 * 32.2e9, rel=0.01)


@pytest.mark.parametrize(
    ("name", "rate"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12), ("NVIDIA H100 PCIe", 756e12), ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA GeForce RTX 4090", 165e12), ("NVIDIA RTX A6000", 155e12), ("NVIDIA T1000", None),
    ],
)  # fmt: skip
def test_rates_by_the_name_of_the_driver(name, rate):
    assert gpu_rate(name) == rate


def test_nothing_is_said_without_a_known_rate(chat_result):
    assert "throughput/mfu" not in (chat_result.directory / "metrics.jsonl").read_text()
