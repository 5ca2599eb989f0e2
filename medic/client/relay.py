"""Passes the job's output on as it comes, and keeps the end of it.

A process of its own does it, in a session of its own: when `medic run` is killed, the job's pipe still has a
reader, so that the job neither dies of SIGPIPE nor stands still; and a daemon that the job leaves behind keeps
its output without `medic run` waiting for it.

    job ──pipe──▶ relay ──▶ our stdout and stderr          we ──control (closed: the job is over)──▶ relay
                                                           we ◀──────── tail, then closed ────────── relay

Where stdout and stderr are one file, as under cron, the job has one pipe for both, and the order is exact.
"""

from __future__ import annotations

import os
import select
import threading
from contextlib import suppress

from medic.client.heartbeat import MESSAGE_BYTES

DRAIN_S = 3.0
"""How long the end of the output is waited for behind a slow reader; it is passed on all the same."""
_MOST_BYTES = 65_536


class Relay:
    """The relay's end in `medic run`; ``stdout`` and ``stderr`` are for the job."""

    def __init__(self, stdout: int, stderr: int, control: int, tail: int) -> None:
        self.stdout = stdout
        self.stderr = stderr
        self._control = control
        self._tail = tail

    def let_go(self) -> None:
        """Close our copies of the job's ends, once it has them."""
        for number in {self.stdout, self.stderr}:
            os.close(number)

    def collect(self) -> bytes:
        """The last bytes of the output, once all that the job wrote is passed on.  Call it when the job is over."""
        os.close(self._control)
        parts = []
        with open(self._tail, "rb", buffering=0) as tail:  # noqa: PTH123 - a descriptor
            ready = select.poll()
            ready.register(tail, select.POLLIN)
            while ready.poll((DRAIN_S + 1.0) * 1000):
                part = tail.read(_MOST_BYTES)
                if not part:
                    break
                parts.append(part)
        return b"".join(parts)


def start_relay() -> Relay:
    """Fork the relay.  No thread may run yet.

    :raises OSError: when there are no more processes or descriptors.
    """
    out_read, out_write = os.pipe()
    is_one = os.path.samestat(os.fstat(1), os.fstat(2))
    err_read, err_write = (out_read, out_write) if is_one else os.pipe()
    control_read, control_write = os.pipe()
    tail_read, tail_write = os.pipe()
    if os.fork() == 0:
        try:
            os.setsid()
            for number in {out_write, err_write, control_write, tail_read}:
                os.close(number)
            null = os.open(os.devnull, os.O_RDONLY)
            os.dup2(null, 0)  # who feeds the job must not find a reader in us
            _relay([(out_read, 1)] if is_one else [(out_read, 1), (err_read, 2)], control_read, tail_write)
        finally:
            os._exit(0)
    for number in {out_read, err_read, control_read, tail_write}:
        os.close(number)
    return Relay(out_write, err_write, control_write, tail_read)


def _relay(streams: list[tuple[int, int]], control: int, result: int) -> None:
    tail = Tail()
    pumps = [Pump(source, target, control, tail) for source, target in streams]
    for pump in pumps:
        pump.start()
    os.read(control, 1)  # returns when it is closed: the job is over, or `medic run` is
    for pump in pumps:
        pump.drained.wait(DRAIN_S / len(pumps))
    with suppress(OSError):
        os.write(result, tail.content())
    os.close(result)
    for pump in pumps:
        pump.join()


class Tail:
    """The last bytes of what was added."""

    def __init__(self, size: int = MESSAGE_BYTES) -> None:
        self._size = size
        self._kept = b""
        self._lock = threading.Lock()

    def add(self, data: bytes) -> None:
        with self._lock:
            self._kept = (self._kept + data[-self._size :])[-self._size :]

    def content(self) -> bytes:
        with self._lock:
            return self._kept


class Pump(threading.Thread):
    """Passes one stream on until it ends; ``drained`` is set when all that was written before the end is."""

    def __init__(self, source: int, target: int, control: int, tail: Tail) -> None:
        super().__init__()
        self._source = source
        self._target = target
        self._control = control
        self._tail = tail
        self._writes = True
        self.drained = threading.Event()

    def run(self) -> None:
        try:
            while data := self._next():
                self._tail.add(data)
                if self._writes:
                    self._write(data)
        except BrokenPipeError:
            pass  # nobody reads our output: the job shall see that too, as its pipe closes
        finally:
            os.close(self._source)
            with suppress(OSError):
                os.close(self._target)
            self.drained.set()

    def _next(self) -> bytes:
        ready = select.poll()
        ready.register(self._source, select.POLLIN)
        if not self.drained.is_set():
            ready.register(self._control, select.POLLIN)
            seen = {number for number, _ in ready.poll()}
            if self._source not in seen:
                self.drained.set()  # the job is over, and nothing is in the pipe: the rest is a daemon's
        return os.read(self._source, _MOST_BYTES)

    def _write(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[os.write(self._target, rest) :]
            except BlockingIOError:  # somebody made our terminal or pipe non-blocking
                writable = select.poll()
                writable.register(self._target, select.POLLOUT)
                writable.poll()
            except BrokenPipeError:
                raise
            except OSError as error:
                # A full disk, a terminal that is gone: the job goes on, and Medic hears of it.
                self._writes = False
                self._tail.add(f"\n[medic run: the output cannot be written: {error.strerror}]\n".encode())
                return
