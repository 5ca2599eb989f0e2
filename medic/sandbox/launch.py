"""One run of the launcher: its pipes and its protocol, seen from the worker."""

from __future__ import annotations

import fcntl
import json
import os
import selectors
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from medic.sandbox.cage import Order
from medic.sandbox.model import ScriptResult

_LAUNCHER = Path(__file__).with_name("launcher.py")
_READY_WITHIN = 30.0
_ASK_EVERY = 0.2
_SLACK = 20.0
"""Seconds beyond timeout and grace after which a launcher that still has not answered is killed."""


class Output:
    """Bytes of one stream up to a cap; what is more is read and dropped."""

    def __init__(self, cap: int) -> None:
        self.truncated = False
        self._kept = bytearray()
        self._cap = cap

    def add(self, data: bytes) -> None:
        room = self._cap - len(self._kept)
        self._kept += data[:room]
        self.truncated = self.truncated or len(data) > room

    def text(self) -> str:
        """As UTF-8, wrong bytes replaced; without NULs, which PostgreSQL's text cannot hold."""
        return self._kept.decode("utf-8", "replace").replace("\0", "")


class Launch:
    """A started launcher.  Leaving the context ends it and every process below it.

    For one thread: the kernel takes the end of the thread that started the launcher for the worker's
    death.
    """

    def __init__(self, order: Order, *, stdin: bytes, output: int) -> None:
        self._order = order
        self._stdin = memoryview(stdin)
        self._heard = b""
        self._went = False
        self._end: dict[str, Any] = {}
        self._outputs = (Output(output), Output(output))
        self._open: set[int] = set()
        self._selector = selectors.DefaultSelector()

    def __enter__(self) -> Self:
        theirs: list[int] = []
        try:
            self._control = self._pipe(theirs, launcher_reads=True)
            self._report = self._pipe(theirs, launcher_reads=False)
            self._feed = self._pipe(theirs, launcher_reads=True)
            self._streams = tuple(self._pipe(theirs, launcher_reads=False) for _ in self._outputs)
            # Nothing of the worker's environment goes along; what the script sees is in the order.
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-B", "-X", "utf8", str(_LAUNCHER), *map(str, theirs)],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                pass_fds=theirs, env={}, cwd="/", start_new_session=True,
            )  # fmt: skip
        except BaseException:
            self._close(*self._open)
            raise
        finally:
            for fd in theirs:
                os.close(fd)
        for fd in (self._report, *self._streams):
            self._selector.register(fd, selectors.EVENT_READ)
        os.set_blocking(self._feed, False)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._close(self._control)  # the launcher takes it for stop
            try:
                self._process.wait(self._order.grace + _SLACK)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        finally:
            self._close(*self._open)
            self._selector.close()

    def prepare(self) -> dict[str, Any]:
        """Send the order and wait until the cage stands; :returns: ``ready`` or ``refused``."""
        body = json.dumps(self._order._asdict()).encode()
        data = memoryview(len(body).to_bytes(8, "big") + body)
        with suppress(BrokenPipeError):
            while data:
                data = data[os.write(self._control, data) :]
        answer = self._answer(time.monotonic() + _READY_WITHIN, lambda: False)
        return answer or {"refused": "the launcher did not get ready"}

    def go(self, should_stop: Callable[[], bool]) -> dict[str, Any]:
        """Start the script and see it through; :returns: ``end``, ``refused``, or nothing when lost."""
        self._went = True
        with suppress(BrokenPipeError):
            os.write(self._control, b"G")
        self._selector.register(self._feed, selectors.EVENT_WRITE)
        deadline = time.monotonic() + self._order.timeout + self._order.grace + _SLACK
        answer = self._answer(deadline, should_stop)
        # The tree is dead, so the pipes end by themselves; the bound is for a holder beyond our reach.
        drained = time.monotonic() + 2
        while self._open.intersection((self._report, *self._streams)) and time.monotonic() < drained:
            self._turn()
        self._end = answer.get("end", {})
        return answer

    def result(self) -> ScriptResult:
        """What is known after the end, or without `go`: that it was stopped before it started."""
        out, err = self._outputs
        return ScriptResult(
            exit_code=self._end.get("exit_code"),
            signal=self._end.get("signal"),
            stdout=out.text(),
            stderr=err.text(),
            stdout_truncated=out.truncated,
            stderr_truncated=err.truncated,
            timed_out=self._end.get("timed_out", False),
            stopped=self._end.get("stopped", not self._went),
            duration=self._end.get("duration", 0.0),
            disk_exceeded=self._end.get("disk_exceeded", False),
            lost=self._went and not self._end,
        )

    def _answer(self, deadline: float, should_stop: Callable[[], bool]) -> dict[str, Any]:
        """The launcher's next line; empty when it died or stayed out."""
        ask_at = 0.0
        while b"\n" not in self._heard:
            now = time.monotonic()
            if now >= ask_at and self._control in self._open:
                ask_at = now + _ASK_EVERY
                if should_stop():
                    self._close(self._control)
            if self._report not in self._open or now >= deadline:
                return {}
            self._turn()
        line, self._heard = self._heard.split(b"\n", 1)
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _turn(self) -> None:
        """Move what can be moved through the pipes, waiting a little for it."""
        for key, _ in self._selector.select(_ASK_EVERY):
            if key.fd == self._feed:
                self._write_stdin()
                continue
            data = os.read(key.fd, 65_536)
            if not data:
                self._close(key.fd)
            elif key.fd == self._report:
                self._heard += data
            else:
                self._outputs[self._streams.index(key.fd)].add(data)

    def _write_stdin(self) -> None:
        try:
            if self._stdin:
                self._stdin = self._stdin[os.write(self._feed, self._stdin[:65_536]) :]
        except BlockingIOError:
            return
        except BrokenPipeError:
            self._stdin = memoryview(b"")  # the script does not want it
        if not self._stdin:
            self._close(self._feed)

    def _pipe(self, theirs: list[int], *, launcher_reads: bool) -> int:
        """Make a pipe; the launcher's end goes to `theirs`, the own one is returned."""
        ends = []
        for fd in os.pipe():
            high = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)  # a daemon may have 0 to 2 closed
            os.close(fd)
            ends.append(high)
        own, their = ends[launcher_reads], ends[not launcher_reads]
        theirs.append(their)
        self._open.add(own)
        return own

    def _close(self, *fds: int) -> None:
        for fd in self._open.intersection(fds):
            with suppress(KeyError):
                self._selector.unregister(fd)
            os.close(fd)
            self._open.discard(fd)
