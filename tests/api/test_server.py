"""The real server, as `medic api` starts it, on servers of its own that come and go."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests
from sqlalchemy import text
from sqlalchemy.orm import Session

from medic import audit
from medic.access import create_key
from medic.db import database_now, in_transaction, make_engine
from medic.local.servers import Servers
from medic.migrate import upgrade
from tests.api.caller import PLAYBOOK
from tests.waiting import eventually

SHELL = audit.Actor("shell", "test")


@dataclass
class Server:
    """A running API with its two servers."""

    database: Servers
    broker: Servers
    environ: dict[str, str]
    log: Path
    key: str = ""
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "medic", "api"], env=os.environ | self.environ, stdout=log,
                stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        eventually(self.lives, within=40)

    def lives(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log.read_text()[-3000:]
        try:
            return self.call("GET", "/health/live").status_code == 200
        except requests.RequestException:
            return False

    def kill(self) -> None:
        """All its processes, at once and without a word."""
        assert self.process is not None
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                self.kill()

    def call(self, method: str, path: str, body: Any = None, **more: Any) -> requests.Response:
        with requests.Session() as session:
            session.trust_env = False
            return session.request(
                method, f"http://127.0.0.1:{self.environ['PORT']}{path}", json=body, timeout=20,
                headers={"Authorization": f"Bearer {self.key}"} | more.pop("headers", {}), **more,
            )  # fmt: skip

    def count(self, table: str) -> int:
        engine = make_engine(self.database.database_url)
        try:
            with engine.connect() as connection:
                return int(connection.execute(text(f"SELECT count(*) FROM {table}")).scalar_one())
        finally:
            engine.dispose()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, keys: dict[str, str]) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("api")
    database = Servers(folder / "database", valkey=False)
    broker = Servers(folder / "broker", postgres=False)
    database.start()
    try:
        broker.start()
        upgrade(database.database_url)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        environ = keys | {
            "MEDIC_DATABASE_URL": database.database_url,
            "REDIS_URL": broker.redis_url,
            "MEDIC_RUN_DIR": str(folder / "run"),
            "MEDIC_LOG_FORMAT": "text",
            "PORT": str(port),
        }
        made = Server(database, broker, environ, folder / "api.log")
        made.key = admin_key(database.database_url, keys["MEDIC_API_KEY_PEPPER"].encode())
        made.start()
        try:
            assert made.call("POST", "/v1/services", {"name": "web", "every": "5m"}).status_code == 201
            stored = made.call(
                "PUT", "/v1/playbooks/restart", data=PLAYBOOK, headers={"Content-Type": "text/yaml"}
            )
            assert stored.status_code == 201
            yield made
        finally:
            made.stop()
    finally:
        broker.stop()
        database.stop()


def admin_key(url: str, pepper: bytes) -> str:
    engine = make_engine(url)

    def work(session: Session) -> str:
        now = database_now(session)
        made = create_key(session, name="t", scopes=["admin"], pepper=pepper, actor=SHELL, now=now)
        return made[1].get_secret_value()

    try:
        return in_transaction(engine, work)
    finally:
        engine.dispose()


def test_what_was_accepted_survives_a_kill(server: Server) -> None:
    before = server.count("heartbeats")
    accepted = [server.call("POST", "/v1/heartbeats", {"service": "web"}).status_code for _ in range(20)]
    server.kill()
    assert accepted == [202] * 20
    assert server.count("heartbeats") == before + 20
    server.start()


def test_without_the_database_heartbeats_get_503_and_all_recovers_by_itself(server: Server) -> None:
    assert server.call("GET", "/health/ready").status_code == 200
    server.database.stop()
    try:
        refused = server.call("POST", "/v1/heartbeats", {"service": "web"})
        assert refused.status_code == 503
        assert refused.headers["Content-Type"] == "application/problem+json"
        assert int(refused.headers["Retry-After"]) >= 1
        eventually(lambda: server.call("GET", "/health/ready").status_code == 503)
        assert server.call("GET", "/health").status_code == 503
        assert server.call("GET", "/health/live").status_code == 200
        assert server.call("GET", "/metrics").status_code in {200, 503}
        server.stop()
        server.start()  # a database that is down does not keep it from starting
        assert server.call("POST", "/v1/heartbeats", {"service": "web"}).status_code == 503
    finally:
        server.database.start()
    eventually(lambda: server.call("GET", "/health/ready").status_code == 200)
    eventually(lambda: server.call("POST", "/v1/heartbeats", {"service": "web"}).status_code == 202)


def test_without_redis_heartbeats_and_starts_are_accepted_all_the_same(server: Server) -> None:
    server.broker.stop()
    try:
        assert server.call("POST", "/v1/heartbeats", {"service": "web"}).status_code == 202
        began = time.monotonic()
        started = server.call("POST", "/v1/playbooks/restart/executions", {"service": "web"})
        assert started.status_code == 202
        assert time.monotonic() - began < 4
        health = server.call("GET", "/health")
        assert (health.status_code, health.json()["components"]["broker"]["status"]) == (200, "degraded")
        assert server.call("GET", "/health/ready").status_code == 200
        path = f"/v1/executions/{started.json()['id']}"
        due = server.call("GET", path).json()["due_at"]
        assert due is not None  # the sweep dispatches it
    finally:
        server.broker.start()
    eventually(lambda: server.call("GET", "/health").json()["components"]["broker"]["status"] == "ok")


def test_a_server_that_is_stopped_says_goodbye_and_one_that_is_killed_does_not(server: Server) -> None:
    engine = make_engine(server.database.database_url)

    def records() -> dict[str, bool]:
        """Of each process whether it said goodbye; several rows of one are a silence in between."""
        with engine.connect() as connection:
            return dict(
                connection.execute(text("SELECT process::text, closed FROM coverage ORDER BY since")).all()
            )

    def begins() -> str:
        """The process that has begun to record."""
        before = set(records())
        server.start()
        return eventually(lambda: next(iter(set(records()) - before), ""))

    try:
        server.stop()
        stopped = begins()
        server.stop()
        assert records()[stopped]
        killed = begins()
        server.kill()
        begins()
        assert not records()[killed]
    finally:
        engine.dispose()
