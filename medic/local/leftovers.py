"""What a killed run left behind.

On Linux the kernel ends our processes when we are killed; it takes them a moment, and a worker's own
children may take longer.  Elsewhere nobody ends them.  So the next start looks: every process that a stack
starts carries the stack's data folder in its environment, and PostgreSQL's work in their data folder.
Call it only with the data folder's lock held: then whoever is found has lost its supervisor.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import psutil

MARK = "MEDIC_UP_FOLDER"
"""The variable that marks a stack's processes with its data folder."""


def end_leftovers(data_dir: Path, pgdata: Path) -> list[str]:
    """End what an earlier run on this folder left; returns a line for each, to show.

    PostgreSQL is asked to stop fast and given 10 s, then told to stop at once: both keep what is committed.
    Without psutil nothing is looked for (it comes with the embedded servers).
    """
    try:
        import psutil  # noqa: PLC0415 - an optional dependency
    except ImportError:
        return []
    servers, others = _find(data_dir, pgdata)
    found = [
        f"ended {_name(process)} ({process.pid}) of a run that was killed" for process in others + servers
    ]
    _end(others, ((signal.SIGTERM, 2.0), (signal.SIGKILL, 5.0)))
    pids = {process.pid for process in servers}
    postmasters = []
    for process in servers:
        with suppress(psutil.Error):
            if process.ppid() not in pids:
                postmasters.append(process)
    _end(postmasters, ((signal.SIGINT, 10.0), (signal.SIGQUIT, 5.0), (signal.SIGKILL, 5.0)))
    if not _end(servers, ((signal.SIGTERM, 1.0), (signal.SIGKILL, 5.0))):
        _forget_dead_postmaster(pgdata)
    return found


def _find(data_dir: Path, pgdata: Path) -> tuple[list[psutil.Process], list[psutil.Process]]:
    import psutil  # noqa: PLC0415 - see above

    me = psutil.Process()
    mine = {me.pid, *(parent.pid for parent in me.parents())}
    servers, others = [], []
    for process in psutil.process_iter():
        if process.pid in mine:
            continue
        with suppress(psutil.Error, OSError):
            if process.name() == "postgres" and process.cwd() == os.path.realpath(pgdata):
                servers.append(process)
            elif process.environ().get(MARK) == str(data_dir):
                others.append(process)
    return servers, others


def _end(
    processes: Iterable[psutil.Process], signals: Iterable[tuple[signal.Signals, float]]
) -> list[psutil.Process]:
    """Send the signals in turn, each with its patience in seconds; returns who is still there."""
    import psutil  # noqa: PLC0415 - see above

    alive = list(processes)
    for number, patience in signals:
        for process in alive:
            with suppress(psutil.Error):
                process.send_signal(number)
        deadline = time.monotonic() + patience
        while (alive := [process for process in alive if not _gone(process)]) and time.monotonic() < deadline:
            time.sleep(0.02)
        if not alive:
            break
    return alive


def _gone(process: psutil.Process) -> bool:
    """Whether it runs no more; one that nobody buries, as in a container without an init, counts as gone."""
    import psutil  # noqa: PLC0415 - see above

    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.Error:
        return True


def _forget_dead_postmaster(pgdata: Path) -> None:
    """Remove the pid file of a postmaster that is gone.

    PostgreSQL does so itself, unless some other process has that number by now, as happens in containers,
    where a few low numbers are used again and again.
    """
    with suppress(FileNotFoundError):
        (pgdata / "postmaster.pid").unlink()


def _name(process: psutil.Process) -> str:
    import psutil  # noqa: PLC0415 - see above

    with suppress(psutil.Error):
        words = process.cmdline()
        return next(
            (word for word in ("worker", "beat", "flower", "granian") if word in words), process.name()
        )
    return "a process"
