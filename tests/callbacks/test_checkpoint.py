import os
import time

import pytest
import torch
from lightning import Callback

from callbacks import StepCheckpoint, find_last_checkpoint
from tests.callbacks.toy import Batches, ToyModule, make_trainer


def fit(folder, steps: int, *others, every: int = 2, keep: int = 2, max_steps: int | None = None, resume=None):
    checkpoint = StepCheckpoint(folder, every_n_steps=every, keep_last=keep)
    trainer = make_trainer(folder, max_steps or steps, checkpoint, *others, enable_checkpointing=True)
    trainer.fit(ToyModule(), Batches(max_steps or steps), ckpt_path=resume)
    return trainer


def names(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != "last")


class StopAt(Callback):
    def __init__(self, step: int):
        self.step = step

    def on_train_batch_end(self, trainer, *args):
        trainer.should_stop = trainer.global_step == self.step


def test_named_by_step_last_ones_kept_and_the_final_step_saved(tmp_path):
    fit(tmp_path, 7)
    assert names(tmp_path) == ["step=0000006.ckpt", "step=0000007.ckpt"]
    assert torch.load(tmp_path / "step=0000007.ckpt", weights_only=True)["global_step"] == 7
    assert find_last_checkpoint(tmp_path) == tmp_path / "step=0000007.ckpt"
    assert os.readlink(tmp_path / "last") == "step=0000007.ckpt"


def test_a_run_that_is_stopped_saves_where_it_stops(tmp_path):
    fit(tmp_path, 9, StopAt(3), every=100)
    assert names(tmp_path) == ["step=0000003.ckpt"]


def test_a_resumed_run_does_not_save_again_in_the_middle_of_a_window(tmp_path):
    fit(tmp_path, 9, StopAt(4), every=4, max_steps=9)
    saved = tmp_path / "step=0000004.ckpt"
    before = saved.stat().st_mtime_ns
    time.sleep(0.01)
    fit(tmp_path, 9, StopAt(5), every=4, max_steps=9, resume=saved)
    assert names(tmp_path) == ["step=0000004.ckpt", "step=0000005.ckpt"]
    assert saved.stat().st_mtime_ns == before


def test_going_back_to_an_earlier_step_leaves_no_later_one_behind(tmp_path):
    fit(tmp_path, 6, keep=3)
    fit(tmp_path, 6, StopAt(3), keep=3, resume=tmp_path / "step=0000002.ckpt")
    assert names(tmp_path) == ["step=0000002.ckpt", "step=0000003.ckpt"]


def test_the_last_complete_one_is_found(tmp_path):
    assert find_last_checkpoint(tmp_path / "nowhere") is None
    fit(tmp_path, 4, keep=9)
    data = (tmp_path / "step=0000004.ckpt").read_bytes()
    (tmp_path / "step=0000005.ckpt").write_bytes(data[: len(data) // 2])  # torn by a crash
    (tmp_path / ".partial").mkdir()
    (tmp_path / ".partial" / "step=0000006.ckpt").write_bytes(data)
    (tmp_path / "step=0000007.ckpt").mkdir()  # a sharded one, without its manifest
    (tmp_path / "step=0000007.ckpt" / "meta.pt").write_bytes(data)
    (tmp_path / "other.ckpt").write_bytes(data)
    assert find_last_checkpoint(tmp_path) == tmp_path / "step=0000004.ckpt"


def test_a_dry_run_writes_nothing(tmp_path):
    checkpoint = StepCheckpoint(tmp_path / "checkpoints", every_n_steps=1)
    make_trainer(tmp_path, 2, checkpoint, enable_checkpointing=True, fast_dev_run=2).fit(ToyModule(), Batches(2))
    assert not (tmp_path / "checkpoints").exists()


class Scores(Callback):
    """Logs a score at each validation."""

    def __init__(self, figure: str, *scores: float):
        self.figure, self.scores = figure, list(scores)

    def on_validation_epoch_end(self, trainer, module):
        trainer.callback_metrics[self.figure] = torch.tensor(self.scores.pop(0))


@pytest.mark.parametrize(
    ("figure", "step", "score"), [("score", 4, 0.7), ("generation/fid", 2, 0.2), ("val/text_loss", 2, 0.2)]
)
def test_the_best_by_a_figure_is_kept_beside_the_newest(tmp_path, figure, step, score):
    checkpoint = StepCheckpoint(tmp_path, every_n_steps=100, keep_last=1, keep_best=figure)
    trainer = make_trainer(
        tmp_path,
        10,
        checkpoint,
        Scores(figure, 0.2, 0.7, 0.5, 0.6, 0.3),
        enable_checkpointing=True,
        val_check_interval=4,
    )
    trainer.fit(ToyModule(), Batches(10), Batches(1))
    assert [name for name in names(tmp_path) if name.endswith("ckpt")] == [f"step={step:07d}.ckpt", "step=0000010.ckpt"]
    assert checkpoint.best() == {"figure": figure, "score": pytest.approx(score), "step": step}
    assert find_last_checkpoint(tmp_path).name == "step=0000010.ckpt"
