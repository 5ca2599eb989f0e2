"""A command line in a folder of its own, and a real API for it to speak to."""

from __future__ import annotations

import http.server
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import requests
from click.testing import CliRunner, Result
from sqlalchemy import Engine

from medic import settings as settings_
from medic.access import first_admin_key
from medic.cli import main
from medic.settings import Settings
from tests.conftest import empty
from tests.waiting import eventually

ROOT = Path(__file__).resolve().parents[2]

Medic = Callable[..., Result]


def own_names() -> set[str]:
    """Every variable that Medic reads: none of the machine's may steer a test."""
    names = {str(info.alias) for info in Settings.model_fields.values()} | {"MEDIC_API_KEY"}
    return names | {f"{name}_FILE" for name in names}


@pytest.fixture
def medic(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Medic]:
    """Run a command: ``medic("service", "list", MEDIC_BASE_URL=…)``; ``stdin`` is its standard input."""
    for name in own_names():
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)

    def run(*arguments: str, stdin: str | None = None, **environ: str) -> Result:
        settings_.current.cache_clear()
        return CliRunner().invoke(main, arguments, input=stdin, env=environ)

    yield run
    settings_.current.cache_clear()


@dataclass
class Canned:
    """A server that answers what it is told, and remembers what it was asked."""

    url: str
    answers: list[tuple[int, dict[str, str], bytes]] = field(default_factory=list)
    requests: list[tuple[str, str, dict[str, str], bytes]] = field(default_factory=list)

    def answer(self, status: int, body: Any, **headers: str) -> None:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.answers.append((status, {name.replace("_", "-"): value for name, value in headers.items()}, raw))


@pytest.fixture
def canned() -> Iterator[Canned]:
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            found.requests.append((self.command, self.path, dict(self.headers), body))
            status, headers, raw = found.answers.pop(0)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

        do_GET = do_POST = do_PUT = do_DELETE = _answer  # noqa: N815 - the names that the base class calls

        def log_message(self, *_: object) -> None:
            """Nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    found = Canned(f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield found
    server.shutdown()
    server.server_close()


@dataclass(frozen=True)
class Api:
    """A running API and what its processes are told."""

    url: str
    environ: dict[str, str]


@pytest.fixture(scope="module")
def api(
    database_url: str, shared_engine: Engine, backends: Any, keys: dict[str, str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Api]:  # fmt: skip
    """The real API, one for the tests of a file; behind them it must not go on recording that it hears."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    environ = {
        "MEDIC_DATABASE_URL": database_url,
        "REDIS_URL": backends.redis_url,
        "MEDIC_BASE_URL": url,
        "PORT": str(port),
        "MEDIC_RUN_DIR": str(tmp_path_factory.mktemp("run")),
        "METRICS_PORT": "0",
        **keys,
    }
    clean = {name: value for name, value in os.environ.items() if name not in own_names()}
    with (tmp_path_factory.mktemp("api") / "log").open("w+b") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "medic", "api"],
            cwd=ROOT, env=clean | environ, stdout=log, stderr=subprocess.STDOUT,
        )  # fmt: skip

        def is_up() -> bool:
            assert process.poll() is None, Path(log.name).read_text()
            try:
                return requests.get(f"{url}/health/live", timeout=1).status_code == 200
            except requests.ConnectionError:
                return False

        try:
            eventually(is_up, within=90)
            yield Api(url, environ)
        finally:
            process.terminate()
            process.wait(timeout=30)
            empty(shared_engine)  # its goodbye


@pytest.fixture
def admin(medic: Medic, api: Api, engine: Engine) -> Medic:
    """The command line with an admin key of the real API."""
    pepper = Settings.from_env(api.environ).need_pepper()
    key = first_admin_key(api.environ["MEDIC_DATABASE_URL"], pepper)
    assert key is not None

    def run(*arguments: str, stdin: str | None = None, **environ: str) -> Result:
        return medic(*arguments, stdin=stdin, **{"MEDIC_BASE_URL": api.url, "MEDIC_API_KEY": key, **environ})

    return run


def data_of(result: Result) -> Any:
    """The JSON that a command printed."""
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)
