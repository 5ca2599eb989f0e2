"""The load generator on a real server of a few lines."""

from __future__ import annotations

import socketserver
import threading
from collections.abc import Callable, Iterator

import pytest

from bench import load
from bench.load import Plan


class Answering(socketserver.StreamRequestHandler):
    """Answers each request in two pieces, so that an answer has to be put together."""

    status = "202 Accepted"
    disable_nagle_algorithm = True

    def handle(self) -> None:
        while self.rfile.readline().strip():
            length = 0
            while line := self.rfile.readline().strip():
                if line.lower().startswith(b"content-length:"):
                    length = int(line.split(b":")[1])
            self.rfile.read(length)
            assert isinstance(self.server, Server)
            self.server.bodies += 1
            self.wfile.write(f"HTTP/1.1 {self.status}\r\nContent-Length: 4\r\n\r\n".encode())
            self.wfile.flush()
            self.wfile.write(b"done")


class Refusing(Answering):
    status = "429 Too Many Requests"


class Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True
    bodies = 0


@pytest.fixture
def serve() -> Iterator[Serve]:
    running: list[Server] = []

    def start(handler: type[Answering]) -> Server:
        server = Server(("127.0.0.1", 0), handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        running.append(server)
        return server

    yield start
    for server in running:
        server.shutdown()
        server.server_close()


Serve = Callable[[type[Answering]], Server]


def plan(server: Server, *, rate: float = 0.0) -> Plan:
    return Plan(
        port=server.server_address[1],
        requests=[load.render("POST", "/", body='{"a":1}')],
        connections=2,
        seconds=0.3,
        warm_up=0.1,
        rate=rate,
    )


def test_every_answer_after_the_warm_up_is_counted(serve: Serve) -> None:
    server = serve(Answering)
    (outcome,) = load.run([plan(server)])
    assert 0 < outcome.answered <= server.bodies
    assert outcome.refused == 0
    assert outcome.p50_ms <= outcome.p99_ms


def test_a_rate_is_kept_and_not_exceeded(serve: Serve) -> None:
    (outcome,) = load.run([plan(serve(Answering), rate=100.0)])
    assert 0 < outcome.rate < 150  # as fast as it can, it would be thousands


def test_answers_other_than_2xx_are_no_measurement(serve: Serve) -> None:
    with pytest.raises(RuntimeError, match="not answered with 2xx"):
        load.run([plan(serve(Refusing))])
