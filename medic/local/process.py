"""One running of a `Program`, in a process group of its own and tied to our life."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import IO

from medic.local.program import Program
from medic.local.stream import LogStream

_LAUNCH = str(Path(__file__).with_name("launch.py"))
_LOG_LIMIT = 10 * 1024 * 1024


def launch_command(
    argv: tuple[str, ...],
    *,
    identity: str = "same",
    orphan_signal: signal.Signals = signal.SIGTERM,
    folder: Path | None = None,
) -> list[str]:
    """The command that starts ``argv`` through `medic.local.launch`, tied to the calling process."""
    return [
        sys.executable, "-I", "-S", _LAUNCH, str(os.getpid()), str(int(orphan_signal)), identity,
        str(folder) if folder else "-", "--", *argv,
    ]  # fmt: skip


class Process:
    """A started program.

    Start it from a thread that lives as long as the program shall: Linux sends the parent-death signal
    when the *thread* that started a process ends (prctl(2)).
    """

    def __init__(self, program: Program, stream: LogStream) -> None:
        self.program = program
        self.started_at = time.monotonic()
        self.last_lines: deque[str] = deque(maxlen=12)
        self._announced = threading.Event()
        self._stream = stream
        self._reader: threading.Thread | None = None
        command = launch_command(program.argv, identity=program.identity, orphan_signal=program.orphan_signal)
        log = _open_log(program.log) if program.log else None
        try:
            self._popen = subprocess.Popen(
                command,
                env=dict(program.env),
                stdin=subprocess.DEVNULL,
                stdout=log or subprocess.PIPE,
                stderr=subprocess.STDOUT,
                process_group=0,  # a terminal's Ctrl-C reaches us alone; we stop the others in order
            )
        finally:
            if log:
                log.close()
        if self._popen.stdout is not None:
            self._reader = threading.Thread(
                target=self._read, args=(self._popen.stdout,), name=f"read {program.name}", daemon=True
            )
            self._reader.start()

    @property
    def pid(self) -> int:
        return self._popen.pid

    def exit_code(self) -> int | None:
        """Its exit code, negative for a signal; ``None`` while it runs.

        What it left in its process group is killed before its number is given back to the system, so
        that a restart finds its port free and no stranger is hit.
        """
        if self._popen.returncode is None:
            seen = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if seen is None:
                return None
            if self.program.group_kill:
                self._signal_group(signal.SIGKILL)
            self._popen.wait()
            self._finish_reading()
        return self._popen.returncode

    def is_ready(self) -> bool:
        if self._announced.is_set():
            return True
        if self.program.probe is not None:
            return self.program.probe()
        return self.program.announces is None

    def ask_to_stop(self) -> None:
        """Send its stop signal to it alone: its own children are its own business."""
        if self.exit_code() is None:
            self._popen.send_signal(self.program.stop_signal)

    def kill(self) -> None:
        """Send its kill signal; to its whole group unless it looks after its children itself."""
        if self.exit_code() is None:
            if self.program.group_kill:
                self._signal_group(self.program.kill_signal)
            else:
                self._popen.send_signal(self.program.kill_signal)

    def kill_hard(self) -> None:
        """SIGKILL, which nothing survives, to its whole group."""
        if self.exit_code() is None:
            self._signal_group(signal.SIGKILL)

    def told(self) -> list[str]:
        """Its last lines, from the stream or from its log file."""
        if self.program.log is None:
            return list(self.last_lines)
        with suppress(OSError):
            return self.program.log.read_text(encoding="utf-8", errors="replace").splitlines()[-12:]
        return []

    def _signal_group(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)

    def _read(self, pipe: IO[bytes]) -> None:
        with pipe:
            for raw in pipe:
                line = raw.decode("utf-8", "replace").rstrip()
                self.last_lines.append(line)
                self._stream.say(self.program.name, line)
                announces = self.program.announces
                if announces is not None and announces.search(line):
                    self._announced.set()

    def _finish_reading(self) -> None:
        if self._reader is not None:
            self._reader.join(timeout=1.0)  # a stranger that holds the pipe does not hold us


def _open_log(path: Path) -> IO[bytes]:
    """Open a log file to append; one that has grown large becomes ``.1`` first."""
    with suppress(FileNotFoundError):
        if path.stat().st_size > _LOG_LIMIT:
            path.replace(path.with_name(path.name + ".1"))
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab")
