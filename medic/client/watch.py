"""Waits for the job and passes on to it what signals we get; one thread does both, so that no signal can hit
a process that took the number of a job that is over.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from types import FrameType

from medic.client.launch import Job

FORWARDED = (
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGTSTP,
    signal.SIGCONT,
)
KILL_AFTER_S = 10.0
"""Between the SIGTERM and the SIGKILL of a job that runs for too long."""
TIMED_OUT = 124
"""Exit code of a job that was stopped for its time, as of timeout(1)."""


class HeldSignals:
    """Holds back the signals that are ours to pass on.  Make it before any thread and before the job.

    What is ignored stays so, for us and the job: that is what `nohup` and a shell's background mean.
    """

    def __init__(self) -> None:
        self.heard = {number for number in FORWARDED if signal.getsignal(number) is not signal.SIG_IGN}
        self._waited_for = self.heard | {signal.SIGCHLD, signal.SIGALRM}
        self._stops = {signal.SIGTSTP, signal.SIGCONT}
        for number in (signal.SIGCHLD, signal.SIGALRM):
            # If who started us ignores them, the kernel would drop them, and reap the job without a word.
            signal.signal(number, _nothing)
        self.before = signal.pthread_sigmask(signal.SIG_BLOCK, self._waited_for)

    def next(self) -> tuple[int, bool]:
        """Wait for a signal; true when the kernel sent it, as for a key of the terminal."""
        if sys.platform == "darwin":
            number = signal.sigwait(self._waited_for)
            return number, number in {
                signal.SIGINT,
                signal.SIGQUIT,
                signal.SIGTSTP,
            }  # who sent it is not told there
        seen = signal.sigwaitinfo(self._waited_for)
        return seen.si_signo, seen.si_code > 0  # 0 and less: kill(2) and its like; see sigaction(2)

    def call(self, react: Callable[[], None]) -> None:
        """From now on any of them calls ``react``, in the main thread."""

        def handler(_number: int, _frame: FrameType | None) -> None:
            react()

        for number in self.heard - self._stops:  # these two do as ever from now on
            signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, self._waited_for)


def watch(job: Job, signals: HeldSignals, *, limit: float | None = None) -> bool:
    """Wait until the job is over, passing signals on.

    :param limit: seconds after which the job gets SIGTERM, and `KILL_AFTER_S` later SIGKILL.
    :returns: whether it was stopped for its time.
    """
    timed_out = False
    if limit is not None:
        signal.setitimer(signal.ITIMER_REAL, max(limit, 0.001))
    while job.poll() is None:
        number, is_kernels = signals.next()
        if number == signal.SIGALRM:
            job.send(signal.SIGKILL if timed_out else signal.SIGTERM)
            timed_out = True
            signal.setitimer(signal.ITIMER_REAL, KILL_AFTER_S)
        elif number != signal.SIGCHLD:
            if job.own_group or not is_kernels:
                job.send(number)  # else the terminal has told the job already
            if number == signal.SIGTSTP:
                os.kill(os.getpid(), signal.SIGSTOP)  # who waits for us, as a shell does, sees us stop too
    signal.setitimer(signal.ITIMER_REAL, 0)
    if timed_out:
        job.sweep()
    return timed_out


def _nothing(_number: int, _frame: FrameType | None) -> None:
    """Make the kernel keep the signal for `HeldSignals.next`."""
