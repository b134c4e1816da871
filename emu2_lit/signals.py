"""What a scheduler asks of this process: signals, noted from its first moment on.

SLURM sends USR1 (or USR2) some time before a job's limit, and TERM when it takes the machine away, to every process
of a step. Before the first optimizer step and after the last one there is nothing to save, and `early` notes them;
in between `callbacks.GracefulStop` does. Light: it is imported before everything else.
"""

import os
import signal
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager

from emu2_lit import job

WARNINGS = (signal.SIGUSR1, signal.SIGUSR2)  # the time is running out
REQUESTS = (*WARNINGS, signal.SIGTERM)


class StopRequested(BaseException):
    """Asked to leave at a moment when nothing is left to save; like KeyboardInterrupt it is no error of the code."""


class EarlySignals:
    """Notes REQUESTS for the whole life of a process of a SLURM step; elsewhere it changes nothing.

    Attributes:
        received: the last one that was noted.
        leave_at_once: those that end what is being done with StopRequested.
    """

    def __init__(self):
        self.received: signal.Signals | None = None
        self.leave_at_once: Collection[signal.Signals] = ()
        self._process = os.getpid()

    def listen(self) -> None:
        """Set the handlers, here in a SLURM step; again where a library has set its own."""
        if job.in_step() and threading.current_thread() is threading.main_thread():
            for number in REQUESTS:
                signal.signal(number, self._note)

    def while_loading(self) -> None:
        """TERM is followed at once: somebody wants the machine. A warning is not: there is time for a step, and a run
        that makes one gets on."""
        self._leave_on((signal.SIGTERM,), self.received)

    def nothing_left_to_save(self, received: signal.Signals | None) -> None:
        """The last step is saved: from here on, or if something came during that step, the process leaves at once.

        Args:
            received: what came while somebody else was listening.
        """
        self._leave_on(REQUESTS, received or self.received)

    def _leave_on(self, signals: Collection[signal.Signals], received: signal.Signals | None) -> None:
        self.listen()
        if job.in_step():
            self.leave_at_once = signals
            if received in signals:
                raise StopRequested(received.name)

    def _note(self, number: int, frame: object) -> None:
        if os.getpid() != self._process:  # a data worker that was forked and has not yet set its own
            return
        self.received = signal.Signals(number)
        if number in self.leave_at_once:
            raise StopRequested(self.received.name)


early = EarlySignals()


@contextmanager
def shielded() -> Iterator[None]:
    """Processes that are started meanwhile never hear WARNINGS; one that comes to this process is not lost.

    A scheduler signals all processes of a step, and those that spawn or a fork server starts would die of it.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, WARNINGS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
