"""What a scheduler's signals do to a process before and after its steps."""

import os
import signal
import subprocess
import sys

import pytest

from emu2_lit.signals import EarlySignals, StopRequested


@pytest.fixture
def early(monkeypatch):
    """Listening, in a step."""
    monkeypatch.setenv("SLURM_STEP_ID", "0")
    numbers = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM)
    before = {number: signal.getsignal(number) for number in numbers}
    yield EarlySignals()
    for number, handler in before.items():
        signal.signal(number, handler)


def test_a_warning_while_loading_is_kept_for_the_first_step(early):
    early.while_loading()
    os.kill(os.getpid(), signal.SIGUSR1)
    assert early.received == signal.SIGUSR1


def test_who_wants_the_machine_does_not_wait_for_the_loading(early):
    early.while_loading()
    with pytest.raises(StopRequested, match="SIGTERM"):
        os.kill(os.getpid(), signal.SIGTERM)


def test_what_came_before_anything_was_loaded_counts(early):
    early.listen()
    os.kill(os.getpid(), signal.SIGTERM)
    with pytest.raises(StopRequested):
        early.while_loading()


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM])
def test_after_the_last_step_every_request_ends_it(early, number):
    early.nothing_left_to_save(None)
    with pytest.raises(StopRequested, match=number.name):
        os.kill(os.getpid(), number)


def test_a_request_during_the_last_step_counts_after_it_except_of_the_user(early):
    with pytest.raises(StopRequested, match="SIGUSR1"):
        early.nothing_left_to_save(signal.SIGUSR1)
    EarlySignals().nothing_left_to_save(signal.SIGINT)


def test_outside_slurm_nothing_changes(monkeypatch):
    monkeypatch.delenv("SLURM_STEP_ID", raising=False)
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGUSR1)
    early = EarlySignals()
    early.while_loading()
    early.nothing_left_to_save(signal.SIGTERM)
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGUSR1)) == before


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_processes_that_are_started_under_the_shield_survive_a_warning(method):
    """In an interpreter of its own: a fork server lives as long as what first asked for it."""
    code = f"""
import multiprocessing, os, signal, time
from emu2_lit.signals import shielded
with shielded():
    process = multiprocessing.get_context("{method}").Process(target=time.sleep, args=[60])
    process.start()
os.kill(process.pid, signal.SIGUSR1)
process.join(timeout=1)
survived = process.exitcode is None
process.terminate()
process.join()
assert survived
assert process.exitcode == -signal.SIGTERM, "and can be ended as ever"
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_warning_to_the_process_itself_comes_after_the_shield():
    code = """
import os, signal
from emu2_lit.signals import shielded
heard = []
signal.signal(signal.SIGUSR1, lambda *_: heard.append(1))
with shielded():
    os.kill(os.getpid(), signal.SIGUSR1)
    assert not heard
assert heard
"""
    subprocess.run([sys.executable, "-c", code], check=True)
