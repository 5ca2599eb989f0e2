"""Starts the job as if nothing stood between it and who started us.

It inherits the environment, the working folder, every open descriptor and the signals that were ignored or
blocked when we were started (`nohup`, a shell's background).
"""

from __future__ import annotations

import errno
import os
import shutil
import signal
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from medic.errors import MedicError

NOT_FOUND, NOT_EXECUTABLE = 127, 126
"""Exit codes of a command that could not be started (POSIX shell, 2.8.2)."""
_PYTHONS_OWN = tuple(getattr(signal, name) for name in ("SIGPIPE", "SIGXFSZ") if hasattr(signal, name))
"""Python ignores these for itself; the job has them as usual."""


class NotStarted(MedicError):
    """The command could not be started; ``exit_code`` says what a shell would."""

    code = "not_started"

    def __init__(self, message: str, *, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


@dataclass(slots=True)
class Job:
    """A started job.

    ``own_group``: it leads a process group.  On a terminal it shares ours, so that the terminal's keys and its
    reading reach it as ever; then a signal goes to the job alone, as the group holds us and our neighbours.
    """

    pid: int
    own_group: bool
    exit_code: int | None = None

    def send(self, number: int) -> None:
        """Send a signal; nothing when the job is over."""
        if self.exit_code is not None:
            return
        with suppress(ProcessLookupError, PermissionError):  # the latter: it became somebody else (setuid)
            if self.own_group:
                os.killpg(self.pid, number)
            else:
                os.kill(self.pid, number)

    def sweep(self) -> None:
        """Kill what is left of the group of a job that is over."""
        if self.own_group:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)

    def poll(self) -> int | None:
        """The exit code once the job is over; 128 + N when signal N killed it."""
        if self.exit_code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                code = os.waitstatus_to_exitcode(status)
                self.exit_code = code if code >= 0 else 128 - code
        return self.exit_code


def launch(
    command: Sequence[str],
    *,
    stdout: int | None,
    stderr: int | None,
    blocked: set[signal.Signals] | set[int],
) -> Job:
    """Start a command, looked for in PATH.

    :param stdout: descriptor that becomes its standard output; None: ours.
    :param blocked: the signals that it shall have blocked: those that were when we started.
    :raises NotStarted: when it cannot be.
    """
    own_group = not _has_terminal()
    actions = [
        (os.POSIX_SPAWN_DUP2, given, own) for given, own in ((stdout, 1), (stderr, 2)) if given is not None
    ]
    try:
        try:
            pid = _spawn(command, actions, own_group, blocked)
        except OSError as error:
            if error.errno != errno.ENOEXEC:
                raise
            # A script without `#!`: as execvp(3) and every shell, hand it to sh.
            path = command[0] if "/" in command[0] else shutil.which(command[0]) or command[0]
            pid = _spawn(["/bin/sh", path, *command[1:]], actions, own_group, blocked)
    except (FileNotFoundError, NotADirectoryError):
        raise NotStarted(f"{command[0]}: command not found", exit_code=NOT_FOUND) from None
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or "cannot be started"
        raise NotStarted(f"{command[0]}: {why}", exit_code=NOT_EXECUTABLE) from None
    return Job(pid, own_group)


def _spawn(
    command: Sequence[str],
    actions: list[tuple[int, int, int]],
    own_group: bool,
    blocked: set[signal.Signals] | set[int],
) -> int:
    if own_group:
        return os.posix_spawnp(
            command[0], list(command), os.environ, file_actions=actions, setpgroup=0, setsigmask=blocked,
            setsigdef=_PYTHONS_OWN,
        )  # fmt: skip
    return os.posix_spawnp(
        command[0],
        list(command),
        os.environ,
        file_actions=actions,
        setsigmask=blocked,
        setsigdef=_PYTHONS_OWN,
    )


def _has_terminal() -> bool:
    """Whether we are in the foreground of a terminal, where Ctrl-C goes to our group."""
    try:
        terminal = os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:
        return False
    finally:
        os.close(terminal)


def open_standard_streams() -> None:
    """Put /dev/null where a standard stream is closed, so that no pipe of ours gets its number."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)


def let_go_of_streams() -> None:
    """Close our own stdin and stdout, which are the job's now: who reads or feeds it must not wait for us."""
    null = os.open(Path(os.devnull), os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    os.close(null)
