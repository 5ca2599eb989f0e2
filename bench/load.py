"""The load generator: one process, keep-alive connections, requests rendered beforehand.

The same program loads Medic and its floor, so that what it costs itself (`Outcome.cpu_us` a request) falls on both.
It reads a `Plan` as JSON from standard input and answers with an `Outcome` as JSON.
"""

from __future__ import annotations

import json
import resource
import selectors
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import cycle

_END = b"\r\n\r\n"
_LENGTH = b"content-length:"
_READ = 65_536
_PATIENCE_S = 20.0


@dataclass(frozen=True, slots=True)
class Plan:
    """What to send; times in seconds.

    :param requests: whole HTTP/1.1 requests, sent in turn.
    :param connections: how many are open; each has one request under way.
    :param rate: requests a second; 0 sends the next as soon as an answer is there.
    """

    port: int
    requests: Sequence[str]
    connections: int
    seconds: float
    warm_up: float = 0.5
    rate: float = 0.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came back, the warm-up left out; latencies in ms, ``cpu_us`` of this process per request."""

    answered: int
    refused: int
    seconds: float
    p50_ms: float
    p99_ms: float
    cpu_us: float

    @property
    def rate(self) -> float:
        """Requests a second that were answered with 2xx."""
        return self.answered / self.seconds


def run(plans: Sequence[Plan]) -> list[Outcome]:
    """Run the plans at the same time, each in a process of its own.

    :raises RuntimeError: when a generator failed, or something was answered with other than 2xx.
    """
    running = []
    for plan in plans:
        process = subprocess.Popen(
            [sys.executable, "-m", "bench.load"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert process.stdin is not None
        process.stdin.write(json.dumps(asdict(plan)))
        process.stdin.close()
        process.stdin = None
        running.append(process)
    outcomes = []
    for process in running:
        said, _ = process.communicate()
        if process.returncode != 0:
            raise RuntimeError("The load generator failed; its message is above.")
        outcomes.append(Outcome(**json.loads(said)))
    refused = sum(outcome.refused for outcome in outcomes)
    if refused:
        raise RuntimeError(f"{refused} requests were not answered with 2xx: this is no measurement.")
    return outcomes


def render(method: str, path: str, *, body: str = "", headers: dict[str, str] | None = None) -> str:
    """One request as it goes over the wire."""
    lines = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    if body:
        lines += ["Content-Type: application/json", f"Content-Length: {len(body.encode())}"]
    return "\r\n".join([*lines, "", body])


@dataclass(slots=True, eq=False)
class _Connection:
    socket: socket.socket
    sent_at: float = 0.0
    buffer: bytes = b""


@dataclass(slots=True)
class _Generator:
    plan: Plan
    ring: Iterator[bytes]
    selector: selectors.BaseSelector = field(default_factory=selectors.DefaultSelector)
    idle: deque[_Connection] = field(default_factory=deque)
    latencies: list[float] = field(default_factory=list)
    refused: int = 0
    counts: bool = False

    def send(self, connection: _Connection) -> None:
        connection.sent_at = time.perf_counter()
        connection.socket.sendall(next(self.ring))

    def receive(self, connection: _Connection) -> bool:
        """True when a whole answer is there."""
        got = connection.socket.recv(_READ)
        if not got:
            raise ConnectionError("the server closed a connection")
        data = connection.buffer + got if connection.buffer else got
        if not _is_whole(data):
            connection.buffer = data
            return False
        connection.buffer = b""
        if self.counts:
            self.latencies.append(time.perf_counter() - connection.sent_at)
            self.refused += data[9:10] != b"2"
        return True

    def until(self, end: float) -> None:
        """Keep every connection busy, or the rate, until then."""
        gap = 1 / self.plan.rate if self.plan.rate else 0.0
        due = time.perf_counter()
        while (now := time.perf_counter()) < end:
            while self.idle and (not gap or due <= now):
                self.send(self.idle.popleft())
                due += gap
            wait = min(end, due) - now if gap and self.idle else end - now
            for key, _ in self.selector.select(max(wait, 0.0)):
                if self.receive(key.data):
                    self.idle.append(key.data)


def generate(plan: Plan) -> Outcome:
    """Send, in this process."""
    ring = cycle([request.encode() for request in plan.requests])
    generator = _Generator(plan, ring)
    for _ in range(plan.connections):
        connection = _Connection(socket.create_connection(("127.0.0.1", plan.port), timeout=_PATIENCE_S))
        connection.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        generator.selector.register(connection.socket, selectors.EVENT_READ, connection)
        generator.idle.append(connection)
    generator.until(time.perf_counter() + plan.warm_up)
    generator.counts = True
    cpu, began = _cpu(), time.perf_counter()
    generator.until(began + plan.seconds)
    seconds, cpu = time.perf_counter() - began, _cpu() - cpu
    ordered = sorted(generator.latencies)
    if not ordered:
        raise RuntimeError("no answer came")
    return Outcome(
        answered=len(ordered) - generator.refused,
        refused=generator.refused,
        seconds=seconds,
        p50_ms=percentile(ordered, 0.50) * 1000,
        p99_ms=percentile(ordered, 0.99) * 1000,
        cpu_us=cpu / len(ordered) * 1e6,
    )


def percentile(ordered: Sequence[float], share: float) -> float:
    """The nearest rank of values in rising order."""
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def _is_whole(data: bytes) -> bool:
    head = data.find(_END)
    if head < 0:
        return False
    at = data.lower().find(_LENGTH, 0, head)
    if at < 0:
        return True
    line_end = data.find(b"\r\n", at)
    return len(data) >= head + 4 + int(data[at + len(_LENGTH) : line_end])


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    sys.stdout.write(json.dumps(asdict(generate(Plan(**json.load(sys.stdin))))))
