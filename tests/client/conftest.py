"""Jobs under `medic run` as cron has them: real processes, without a terminal, against a recording server."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import pytest

from tests.recorder import Received, Recorder, recording

KEY = "mdk_test_0123456789"
PATH = "/v1/heartbeats"
BATCH_PATH = "/v1/heartbeats/batch"


@dataclass
class Bench:
    """Starts `medic run`; whatever is left of it ends with the test."""

    recorder: Recorder
    folder: Path
    environ: dict[str, str]
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def spool(self) -> Path:
        return Path(self.environ["MEDIC_SPOOL_DIR"])

    def start(self, *arguments: str, **more: Any) -> subprocess.Popen[bytes]:
        options: dict[str, Any] = {
            "stdin": subprocess.DEVNULL,
            "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE,
            "env": self.environ,
            "cwd": self.folder,
            "start_new_session": True,
        }
        process = subprocess.Popen([sys.executable, "-m", "medic", "run", *arguments], **options | more)
        self.started.append(process)
        return process

    def run(self, *arguments: str, **more: Any) -> subprocess.CompletedProcess[bytes]:
        process = self.start(*arguments, **more)
        out, err = process.communicate(timeout=60)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def signals(self, status: str | None = None) -> list[dict[str, Any]]:
        """What was sent, one by one and in batches."""
        sent = [request.json for request in list(self.recorder.requests) if request.path.startswith(PATH)]
        bodies = [body for one in sent for body in (one if isinstance(one, list) else [one])]
        return [body for body in bodies if status is None or body["status"] == status]

    def batches(self) -> list[list[dict[str, Any]]]:
        return [request.json for request in self.recorder.of(BATCH_PATH)]

    def waiting(self) -> list[Path]:
        return sorted(self.spool.glob("*.json"))


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    with recording() as recorder:
        recorder.answer = refusing()
        yield recorder


@pytest.fixture
def bench(recorder: Recorder, tmp_path: Path) -> Iterator[Bench]:
    root = str(Path(__file__).parents[2])
    environ = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "PYTHONPATH": root,
        "MEDIC_BASE_URL": recorder.url,
        "MEDIC_API_KEY": KEY,
        "MEDIC_SPOOL_DIR": str(tmp_path / "spool"),
    }
    made = Bench(recorder, tmp_path, environ)
    yield made
    for process in made.started:
        if process.poll() is None:
            process.kill()
        process.wait(timeout=10)
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                stream.close()


@pytest.fixture
def away() -> str:
    """The URL of a server that is not there: a port that nobody listens on."""
    with closing(socket.socket()) as unused:
        unused.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{unused.getsockname()[1]}"


class RawServer:
    """Answers every request with the next of some bytes, the last one again and again; or drips one."""

    def __init__(self, *answers: bytes, drip: bool = False) -> None:
        self.times = 0
        self._answers = answers
        self._drip = drip
        self._stop = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(0.05)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._listener.close()

    def _serve(self) -> None:
        while not self._stop.is_set():
            try:
                connection, _ = self._listener.accept()
            except TimeoutError:
                continue
            with closing(connection), suppress(OSError):
                connection.settimeout(2)
                received = connection.recv(65_536)
                while b"\r\n\r\n" not in received or not received.rstrip().endswith((b"}", b"]")):
                    if not (more := connection.recv(65_536)):
                        raise ConnectionError
                    received += more
                answer = self._answers[min(self.times, len(self._answers) - 1)]
                self.times += 1
                for byte in answer if self._drip else b"":
                    if self._stop.wait(0.1):
                        return
                    connection.sendall(bytes([byte]))
                if not self._drip:
                    connection.sendall(answer)


def answered(status: int, body: bytes = b"{}", **headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status} x", f"Content-Length: {len(body)}", "Content-Type: application/json"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


def refusing(**statuses: int) -> Any:
    """An answer of the recorder, single or batch: a status by service, 202 for the others."""
    detail = b'{"detail": "So it is."}'

    def answer(received: Received) -> tuple[int, bytes]:
        sent = received.json
        if not isinstance(sent, list):
            return statuses.get(sent["service"], 202), detail
        found = [statuses.get(item["service"], 202) for item in sent]
        if 500 in found:
            return 500, detail
        if min(found) >= 400:  # none is stored
            again = [status for status in found if status in {429, 503}]
            return (again or [found[0] if len(set(found)) == 1 else 422])[0], detail
        items = [{"status": status, "detail": None if status < 300 else "So it is."} for status in found]
        return 202 if max(found) < 300 else 207, json.dumps({"items": items}).encode()

    return answer
