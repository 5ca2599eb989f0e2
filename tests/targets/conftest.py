"""Servers on loopback that play the receivers, well and badly."""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from pydantic import SecretStr

from medic.notifications import AlertFacts, Notification
from medic.settings import Settings
from medic.targets.base import Envelope, TargetView

AT = datetime(2026, 11, 23, 9, 42, tzinfo=UTC)
KEY = UUID("0190a5c4-5d1e-7c3b-9a55-6a1f6a0c7b11")


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def answer(status: int, body: object = b"", **headers: str) -> bytes:
    """The bytes of an answer; what is no bytes is sent as JSON."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"HTTP/1.1 {status} Whatever", f"Content-Length: {len(content)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + content


GARBAGE = b"\x16\x03\x01 this is no HTTP\r\n\r\n"
CUT = b"HTTP/1.1 202 Accepted\r\nContent-Length: 500\r\n\r\n{"


@dataclass
class Stage:
    """``script`` gives the bytes for each request; None hangs until the test is over, a RESET tears the line."""

    script: Callable[[Request], bytes | None] = lambda _: answer(200, {})
    requests: list[Request] = field(default_factory=list)
    port: int = 0
    over: threading.Event = field(default_factory=threading.Event)

    RESET = b"RESET"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def says(self, *answers: bytes | None) -> None:
        """One answer after the other; the last one stays."""
        left = list(answers)
        self.script = lambda _: left.pop(0) if len(left) > 1 else left[0]

    def talk(self, peer: socket.socket) -> None:
        peer.settimeout(20)
        with contextlib.suppress(OSError), peer, peer.makefile("rb") as stream:
            method, path, _ = stream.readline().decode("latin-1").split(" ", 2)
            headers = {}
            while (line := stream.readline().decode("latin-1").strip()) and ":" in line:
                name, _, value = line.partition(":")
                headers[name.lower()] = value.strip()
            body = stream.read(int(headers.get("content-length", 0)))
            self.requests.append(Request(method, path, headers, body))
            said = self.script(self.requests[-1])
            if said is None:
                self.over.wait(20)
            elif said == self.RESET:
                peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            else:
                peer.sendall(said)


@pytest.fixture
def stage() -> Iterator[Stage]:
    """A receiver that speaks HTTP as it is told."""
    stage = Stage()
    listener = socket.create_server(("127.0.0.1", 0))
    stage.port = listener.getsockname()[1]
    threads: list[threading.Thread] = []

    def accept() -> None:
        while True:
            try:
                peer, _ = listener.accept()
            except OSError:
                return
            threads.append(threading.Thread(target=stage.talk, args=(peer,), daemon=True))
            threads[-1].start()

    acceptor = threading.Thread(target=accept, daemon=True)
    acceptor.start()
    yield stage
    stage.over.set()
    with contextlib.suppress(OSError):
        listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    for thread in [acceptor, *threads]:
        thread.join(20)


@pytest.fixture
def settings() -> Settings:
    """Settings that open loopback, which nobody may reach otherwise."""
    return Settings.from_env({"MEDIC_ALLOWED_WEBHOOK_HOSTS": "127.0.0.1"})


@pytest.fixture
def closed_settings() -> Settings:
    return Settings.from_env({})


@pytest.fixture
def facts() -> Callable[..., AlertFacts]:
    def made(number: int = 7, **changes: Any) -> AlertFacts:
        values: dict[str, Any] = {
            "id": number, "service": f"web-{number}", "priority": "p2", "reasons": ("missed",),
            "opened_at": AT - timedelta(minutes=12), "team": "ops", "tags": ("prod",),
            "runbook_url": "https://wiki.example.org/web?a=1&b=2",
        }  # fmt: skip
        return AlertFacts(**(values | changes))

    return made


@pytest.fixture
def tell(facts: Callable[..., AlertFacts]) -> Callable[..., Notification]:
    """A notification of one alert, of ``storm`` alerts, or (0) of none."""

    def made(
        kind: str = "opened", *, storm: int = 1, text: str | None = None, **changes: Any
    ) -> Notification:
        if kind == "resolved":
            changes = {"resolved_at": AT, "resolution": "recovered", **changes}
        alerts = tuple(facts(number, **changes) for number in range(7, 7 + storm))
        return Notification(kind=kind, alerts=alerts, at=AT, base_url="https://medic.example.org/", text=text)

    return made


@pytest.fixture
def envelope() -> Callable[..., Envelope]:
    def made(earlier: Mapping[str, Any] | None = None, **more: Any) -> Envelope:
        return Envelope(key=KEY, attempt=1, dedup="medic-alert-7", earlier=earlier, **more)

    return made


@pytest.fixture
def view() -> Callable[..., TargetView]:
    """A target as it would be stored: parsed by its kind."""

    def made(kind: Any, config: Mapping[str, Any], **secrets: str) -> TargetView:
        kept, sealed = kind.parse(config, secrets)
        assert kind.parse(kept, sealed) == (kept, sealed)
        return TargetView(
            id=1, name="t", config=kept, secrets={name: SecretStr(value) for name, value in sealed.items()}
        )

    return made


@pytest.fixture
def http() -> Any:
    """The answers that `Stage` gives."""

    class Http:
        answer = staticmethod(answer)
        garbage, cut, reset, hang = GARBAGE, CUT, Stage.RESET, None

    return Http


@pytest.fixture
def free_port() -> int:
    """A port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])
