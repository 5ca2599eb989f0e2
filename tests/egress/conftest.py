"""Real servers on loopback that speak HTTP badly on purpose, and resolvers that answer what a test says."""

from __future__ import annotations

import contextlib
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import trustme

Handler = Callable[[socket.socket, bytes], None]


class Server:
    """Accepts until it is closed; hands each connection and its first request to the handler."""

    def __init__(self, handler: Handler, tls: ssl.SSLContext | None = None) -> None:
        self._handler, self._tls = handler, tls
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.requests: list[bytes] = []
        self.accepted = 0
        self.closed_empty = threading.Event()
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                peer, _ = self._listener.accept()
            except OSError:
                return
            self.accepted += 1
            thread = threading.Thread(target=self._talk, args=(peer,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _talk(self, peer: socket.socket) -> None:
        peer.settimeout(20)
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            stack.enter_context(peer)
            sock = stack.enter_context(self._tls.wrap_socket(peer, server_side=True)) if self._tls else peer
            request = b""
            while b"\r\n\r\n" not in request:
                piece = sock.recv(65_536)
                if not piece:
                    if not request:
                        self.closed_empty.set()
                    return
                request += piece
            head, _, body = request.partition(b"\r\n\r\n")
            length = next(
                (
                    int(line[15:])
                    for line in head.lower().split(b"\r\n")
                    if line.startswith(b"content-length:")
                ),
                0,
            )
            while len(body) < length:
                body += sock.recv(65_536)
            self.requests.append(head + b"\r\n\r\n" + body)
            self._handler(sock, self.requests[-1])

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(25)


class Names:
    """A resolver: each host has a list of answers, used one after the other; the last one stays."""

    def __init__(self, **hosts: Sequence[Sequence[str]]) -> None:
        self._hosts = {name.replace("_", "."): list(answers) for name, answers in hosts.items()}
        self.calls: list[str] = []

    def __call__(self, host: str, port: int) -> Sequence[str]:
        self.calls.append(host)
        answers = self._hosts.get(host)
        if answers is None:
            raise OSError("no such name")
        return answers.pop(0) if len(answers) > 1 else answers[0]


def _reply(status: str = "200 OK", body: bytes = b"", **headers: str) -> Handler:
    def handle(sock: socket.socket, request: bytes) -> None:
        lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        sock.sendall("\r\n".join([*lines, "", ""]).encode("latin-1") + body)

    return handle


@pytest.fixture
def reply() -> Callable[..., Handler]:
    return _reply


@pytest.fixture
def names() -> type[Names]:
    return Names


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    servers: list[Server] = []

    def start(handler: Handler, tls: ssl.SSLContext | None = None) -> Server:
        servers.append(Server(handler, tls))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


@pytest.fixture
def drip() -> Iterator[Callable[[bytes, bytes], Handler]]:
    """A handler that sends a start, then one piece every 50 ms for 15 s, or until the test is over."""
    over = threading.Event()

    def make(start: bytes, piece: bytes) -> Handler:
        def handle(sock: socket.socket, request: bytes) -> None:
            sock.sendall(start)
            until = time.monotonic() + 15
            while time.monotonic() < until and not over.wait(0.05):
                sock.sendall(piece)

        return handle

    yield make
    over.set()


class Authority:
    def __init__(self, folder: Path) -> None:
        self._ca = trustme.CA()
        self.file = folder / "ca.pem"
        self._ca.cert_pem.write_to_path(str(self.file))

    def server(self, *hosts: str) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._ca.issue_cert(*hosts).configure_cert(context)
        return context


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


_connects: list[Any] = []


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "socket.connect":
        _connects.append(arguments[1])


sys.addaudithook(_audit)  # cannot be removed; it only appends


@pytest.fixture
def connects() -> list[Any]:
    """The addresses that this process connects to during the test."""
    _connects.clear()
    return _connects
