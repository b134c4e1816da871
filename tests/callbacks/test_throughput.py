import time

import pytest
import torch
from lightning import Callback

from callbacks import StepCheckpoint, Throughput
from tests.callbacks.toy import Batches, ToyModule, make_trainer
from tests.distributed import run_ranks

TOKENS, SAMPLES, LEARNED = 14, 4, 6  # of one step of two toy micro-batches


class Logged(Callback):
    """What stood under `throughput/` after each step."""

    def __init__(self):
        self.steps: dict[int, dict[str, float]] = {}

    def on_train_batch_start(self, trainer, *args):
        names = [name for name in trainer.callback_metrics if name.startswith("throughput/")]
        if names:
            self.steps[trainer.global_step] = {
                name.removeprefix("throughput/"): float(trainer.callback_metrics[name]) for name in names
            }


class Sleepy(ToyModule):
    def __init__(self, training: float = 0.0, validation: float = 0.0):
        super().__init__()
        self.training_pause, self.validation_pause = training, validation

    def training_step(self, batch, batch_idx):
        time.sleep(self.training_pause)
        return super().training_step(batch, batch_idx)

    def validation_step(self, batch, batch_idx):
        time.sleep(self.validation_pause)


class SlowBatches(Batches):
    def __iter__(self):
        for batch in super().__iter__():
            time.sleep(0.05)
            yield batch


def test_counts_every_sample_and_every_token_that_is_no_padding(tmp_path):
    throughput = Throughput()
    make_trainer(tmp_path, 3, throughput).fit(ToyModule(), Batches(3))
    totals = throughput.totals()
    assert totals["consumed_samples"] == 3 * SAMPLES
    assert totals["consumed_tokens"] == 3 * TOKENS
    assert totals["wall_seconds"] > 0 and totals["tokens_per_second"] > 0
    assert totals["peak_memory_bytes"] > 50 * 2**20


def test_rates_of_tokens_samples_and_learned_tokens_belong_together(tmp_path):
    logged = Logged()
    make_trainer(tmp_path, 5, Throughput(), logged, log_every_n_steps=2).fit(ToyModule(), Batches(5))
    assert sorted(logged.steps) == [2, 3, 4]
    rates = logged.steps[4]
    assert rates["tokens_per_second"] / rates["samples_per_second"] == pytest.approx(TOKENS / SAMPLES)
    assert rates["learned_tokens_per_second"] / rates["tokens_per_second"] == pytest.approx(LEARNED / TOKENS)
    assert rates["padding"] == pytest.approx(0.3)  # 7 tokens of 2 x 5 positions
    assert rates["peak_memory_gib"] > 0.05


def test_mfu_is_the_work_done_by_the_stated_rate(tmp_path):
    throughput, logged = Throughput(), Logged()
    throughput.measure_use(lambda tokens, pairs, pictures, learned: 5 * tokens + 0 * pairs + learned, rate=1000.0)
    make_trainer(tmp_path, 3, throughput, logged).fit(ToyModule(), Batches(3))
    figures = logged.steps[2]
    expected = (5 * figures["tokens_per_second"] + figures["learned_tokens_per_second"]) / 1000
    assert figures["mfu"] == pytest.approx(expected)


def test_pairs_are_counted_by_sample(tmp_path):
    seen, throughput = [], Throughput()
    throughput.measure_use(lambda **counts: seen.append(counts) or 1.0, rate=1.0)
    make_trainer(tmp_path, 1, throughput).fit(ToyModule(), Batches(1))
    lengths = torch.cat([batch["attention_mask"].sum(1) for batch in Batches(1)])
    assert seen == [{"tokens": TOKENS, "pairs": int((lengths**2).sum()), "pictures": 0, "learned": LEARNED}]


def test_samples_that_share_a_row_count_each_for_itself(tmp_path):
    """A row of three samples and padding, and one of two: pairs are those of tokens that may see each other."""
    segments, seen, logged = torch.tensor([[1, 1, 1, 2, 3, 0], [1, 1, 2, 2, 2, 2]]), [], Logged()
    extra = dict(segment_ids=segments, attention_mask=segments.clamp(max=1), sample_ids=["a", "b", "c", "d", "e"])
    throughput = Throughput()
    throughput.measure_use(lambda **counts: seen.append(counts) or 1.0, rate=1.0)
    make_trainer(tmp_path, 2, throughput, logged).fit(ToyModule(), Batches(2, **extra))
    assert seen[0] | {"learned": 0} == {"tokens": 22, "pairs": 2 * (9 + 1 + 1 + 4 + 16), "pictures": 0, "learned": 0}
    assert throughput.totals()["consumed_samples"] == 2 * 2 * 5
    assert logged.steps[1]["padding"] == pytest.approx(1 / 12)


def test_waiting_for_data_is_seen(tmp_path):
    slow_data, slow_model = Logged(), Logged()
    make_trainer(tmp_path, 3, Throughput(), slow_data).fit(ToyModule(), SlowBatches(3))
    make_trainer(tmp_path, 3, Throughput(), slow_model).fit(Sleepy(training=0.05), Batches(3))
    assert 1 >= slow_data.steps[2]["data_wait"] > 2 * slow_model.steps[2]["data_wait"] >= 0


def test_validation_and_saves_do_not_slow_the_figure_down(tmp_path):
    class SlowSave(StepCheckpoint):
        def on_step_end(self, trainer, pl_module):
            super().on_step_end(trainer, pl_module)
            time.sleep(1.0)

    throughput = Throughput()
    saves = SlowSave(tmp_path / "checkpoints", every_n_steps=1)
    trainer = make_trainer(tmp_path, 3, throughput, saves, enable_checkpointing=True, val_check_interval=2)
    trainer.fit(Sleepy(validation=1.0), Batches(3), Batches(1))
    totals = throughput.totals()
    training_seconds = totals["consumed_tokens"] / totals["tokens_per_second"]
    assert totals["wall_seconds"] - training_seconds > 4.9  # three saves and two of the validation's batches


def test_totals_go_on_over_a_resume(tmp_path):
    first, second = Throughput(), Throughput()
    trainer = make_trainer(tmp_path, 2, first)
    trainer.fit(ToyModule(), Batches(2))
    trainer.save_checkpoint(tmp_path / "two.ckpt")
    second.load_state_dict(first.state_dict())
    make_trainer(tmp_path, 2, second).fit(ToyModule(), Batches(2))
    assert second.totals()["consumed_samples"] == 4 * SAMPLES
    assert second.totals()["wall_seconds"] > first.totals()["wall_seconds"]


def totals_of_a_rank(folder) -> dict[str, float]:
    throughput = Throughput()
    make_trainer(folder, 2, throughput, devices=2, strategy="ddp").fit(ToyModule(), Batches(2))
    return throughput.totals()


def test_two_ranks_count_together(tmp_path):
    first, second = run_ranks(totals_of_a_rank, 2, tmp_path)
    for totals in (first, second):
        assert totals["consumed_samples"] == 2 * 2 * SAMPLES
        assert totals["consumed_tokens"] == 2 * 2 * TOKENS
    assert first["peak_memory_bytes"] == second["peak_memory_bytes"]
