import os
import signal
import threading

import pytest
import torch
from lightning import Callback

from callbacks import GracefulStop, StepCheckpoint, find_last_checkpoint
from tests.callbacks.toy import ACCUMULATION, Batches, ToyModule, make_trainer
from tests.distributed import run_ranks


class SignalAt(Callback):
    """Sends this process signals at the start of a micro-batch."""

    def __init__(self, micro_batch: int, *signals: signal.Signals):
        self.micro_batch, self.signals = micro_batch, signals

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if batch_idx == self.micro_batch:
            for number in self.signals:
                os.kill(os.getpid(), number)


class Validations(Callback):
    count = 0

    def on_validation_start(self, trainer, pl_module):
        self.count += 1


def fit(folder, *others, steps: int = 6, resume=None, **settings):
    stop, module = GracefulStop(), ToyModule()
    checkpoint = StepCheckpoint(folder / "checkpoints", every_n_steps=100)
    trainer = make_trainer(folder, steps, stop, checkpoint, *others, enable_checkpointing=True, **settings)
    trainer.fit(module, Batches(steps), Batches(1), ckpt_path=resume)
    return stop, trainer, module


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stops_with_a_save_after_the_step_and_not_inside_its_window(tmp_path, number):
    validations = Validations()
    stop, trainer, _ = fit(tmp_path, SignalAt(2 * ACCUMULATION, number), validations, val_check_interval=100)
    assert stop.stopped and trainer.global_step == 3
    saved = find_last_checkpoint(tmp_path / "checkpoints")
    assert saved.name == "step=0000003.ckpt"
    assert torch.load(saved, weights_only=True)["global_step"] == 3
    assert validations.count == 0, "a stop must not wait for a validation"


def test_handlers_are_there_only_while_it_fits(tmp_path):
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    seen = []

    class Look(Callback):
        def on_train_batch_start(self, *args):
            seen.append(signal.getsignal(signal.SIGTERM))

    stop, _, _ = fit(tmp_path, Look(), steps=2)
    assert not stop.stopped
    assert seen[0] == stop._flag, "Lightning's own handler hangs several ranks and must not be called"
    assert {number: signal.getsignal(number) for number in before} == before


def test_handlers_are_restored_after_an_error(tmp_path):
    class Fail(Callback):
        def on_train_batch_start(self, *args):
            raise RuntimeError("broken")

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(RuntimeError, match="broken"):
        fit(tmp_path, Fail())
    assert signal.getsignal(signal.SIGINT) == before


def test_a_second_interrupt_ends_at_once(tmp_path):
    class Interrupted(Callback):
        error = None

        def on_exception(self, trainer, pl_module, exception):
            self.error = exception

    interrupted = Interrupted()
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        fit(tmp_path, SignalAt(2, signal.SIGINT, signal.SIGINT), interrupted)
    assert isinstance(interrupted.error, KeyboardInterrupt)
    assert find_last_checkpoint(tmp_path / "checkpoints") is None


def test_a_signal_in_the_last_step_is_a_finished_run(tmp_path):
    stop, trainer, _ = fit(tmp_path, SignalAt(6 * ACCUMULATION - 1, signal.SIGTERM))
    assert trainer.global_step == 6 and not stop.stopped


def test_works_outside_the_main_thread_where_there_are_no_handlers(tmp_path):
    results = []
    thread = threading.Thread(target=lambda: results.append(fit(tmp_path, steps=2)))
    thread.start()
    thread.join()
    assert results[0][1].global_step == 2


def test_resumed_ends_like_one_never_stopped(tmp_path):
    _, _, straight = fit(tmp_path / "straight", val_check_interval=100)
    fit(tmp_path / "stopped", SignalAt(5, signal.SIGTERM), val_check_interval=100)

    class Resumable(Batches):
        def __iter__(self):  # as the kit's loader: begins where the run stands
            return (batch for batch in super().__iter__() if batch["window"]["step"] >= 3)

    module = ToyModule()
    trainer = make_trainer(tmp_path, 6)
    saved = find_last_checkpoint(tmp_path / "stopped" / "checkpoints")
    trainer.fit(module, Resumable(6), ckpt_path=saved)
    assert trainer.global_step == 6
    for name, value in straight.state_dict().items():
        assert torch.equal(value, module.state_dict()[name]), name


def stop_on_one_rank(folder) -> tuple[int, bool]:
    others = [SignalAt(5, signal.SIGTERM)] if os.environ["RANK"] == "1" else []
    stop, trainer, _ = fit(folder, *others, devices=2, strategy="ddp")
    return trainer.global_step, stop.stopped


def test_two_ranks_stop_at_the_same_step_when_one_is_asked_to(tmp_path):
    assert run_ranks(stop_on_one_rank, 2, tmp_path) == [(3, True), (3, True)]
    assert find_last_checkpoint(tmp_path / "checkpoints").name == "step=0000003.ckpt"
