"""What was acknowledged is never lost, and nothing with an id is doubled, whatever dies meanwhile.

A real API process on a real, durable PostgreSQL, under load; the process is killed twice and the database restarted
once.  The clients do what clients should: they send again, with the same id, until they have an answer.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import pytest
import requests
from sqlalchemy import text
from sqlalchemy.orm import Session

from medic import audit, services
from medic.access import create_key
from medic.db import database_now, in_transaction, make_engine
from medic.local.servers import Servers
from medic.migrate import upgrade
from medic.services import Policy
from tests.waiting import eventually

SHELL = audit.Actor("shell", "test")
NAMES = ("a", "b", "c")
BAD: tuple[dict[str, Any], ...] = (
    {"service": "nobody"}, {"service": "NOT A NAME"}, {"service": "a", "status": "great"}, {"duration_ms": 1},
    {"service": "a", "message": "bad\0"},
)  # fmt: skip
CLIENTS = 5
"""Of which the last sends batches."""


@dataclass
class Api:
    """The API's processes."""

    environ: dict[str, str]
    log: Path
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.environ['PORT']}"

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "medic", "api"], env=os.environ | self.environ, stdout=log,
                stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip

    def kill(self) -> None:
        """All its processes, at once and without a word."""
        assert self.process is not None
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@dataclass
class Client:
    """Sends until it is told that it is enough, and remembers each answer."""

    number: int
    url: str
    key: str
    enough: threading.Event
    acknowledged: dict[str, int] = field(default_factory=dict)
    refused: int = 0
    retried: int = 0
    wrong: list[str] = field(default_factory=list)

    def run(self) -> None:
        random = Random(self.number)
        with requests.Session() as session:
            session.trust_env = False
            session.headers["Authorization"] = f"Bearer {self.key}"
            turn = 0
            while not self.enough.is_set():
                bodies = [
                    self._body(random, f"{self.number}-{turn}-{n}")
                    for n in range(40 if self.number == CLIENTS - 1 else 1)
                ]
                self._deliver(session, bodies, random)
                turn += 1

    @staticmethod
    def _body(random: Random, client_id: str) -> dict[str, Any]:
        if random.random() < 0.05:
            return random.choice(BAD) | {"id": f"bad-{client_id}"}
        return {"service": random.choice(NAMES), "id": client_id, "message": client_id}

    def _deliver(self, session: requests.Session, bodies: list[dict[str, Any]], random: Random) -> None:
        """Send what has no answer yet, again and again with the same ids."""
        pause = threading.Event()
        for attempt in range(400):
            answers = self._send(session, bodies)
            left = []
            for body, (status, heartbeat_id) in zip(bodies, answers, strict=True):
                is_bad = body["id"].startswith("bad-")
                if status == 503:
                    left.append(body)
                elif is_bad and 400 <= status < 500:
                    self.refused += 1
                elif not is_bad and status in {200, 202} and heartbeat_id is not None:
                    if self.acknowledged.setdefault(body["id"], heartbeat_id) != heartbeat_id:
                        self.wrong.append(f"{body} was stored twice")
                    elif random.random() < 0.05:
                        left.append(body)  # as if the answer had been lost on the way
                else:
                    self.wrong.append(f"{body} got {status}")
            if not left:
                return
            bodies = left
            self.retried += 1
            pause.wait(0.02 if attempt < 5 else 0.1)
        self.wrong.append(f"{bodies} got no answer")

    def _send(self, session: requests.Session, bodies: list[dict[str, Any]]) -> list[tuple[int, int | None]]:
        """Each one's status and heartbeat; 503 for those that are not known to be stored."""
        single = self.number != CLIENTS - 1
        try:
            response = session.post(
                f"{self.url}/v1/heartbeats" + ("" if single else "/batch"),
                json=bodies[0] if single else bodies,
                timeout=8,
            )
        except requests.RequestException:
            return [(503, None)] * len(bodies)
        if response.status_code == 207 or (not single and response.status_code == 202):
            return [(item["status"], item["id"]) for item in response.json()["items"]]
        found = response.json().get("id") if response.status_code in {200, 202} else None
        return [(response.status_code, found)] * len(bodies)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Servers]:
    servers = Servers(tmp_path / "database", durable=True, valkey=False)
    servers.start()
    try:
        upgrade(servers.database_url)
        yield servers
    finally:
        servers.stop()


@pytest.fixture
def api(database: Servers, keys: dict[str, str], tmp_path: Path) -> Iterator[Api]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    made = Api(
        keys | {
            "MEDIC_DATABASE_URL": database.database_url, "MEDIC_RATE_LIMITER_TYPE": "memory",
            "REDIS_URL": "redis://127.0.0.1:1/0",  # heartbeats need no broker
            "RATE_LIMIT_HEARTBEAT_REQUESTS": "10000000", "MEDIC_RUN_DIR": str(tmp_path / "run"),
            "MEDIC_LOG_FORMAT": "text", "PORT": str(port),
        },
        tmp_path / "api.log",
    )  # fmt: skip
    made.start()
    try:
        yield made
    finally:
        made.kill()


def test_nothing_acknowledged_is_lost_and_nothing_with_an_id_is_doubled(database: Servers, api: Api) -> None:
    key = set_up(database.database_url, api.environ["MEDIC_API_KEY_PEPPER"].encode())
    enough = threading.Event()
    clients = [Client(number, api.url, key, enough) for number in range(CLIENTS)]

    def more(count: int) -> None:
        """Every client got so many more answers."""
        goals = [len(client.acknowledged) + count for client in clients]
        try:
            eventually(
                lambda: all(len(c.acknowledged) >= goal for c, goal in zip(clients, goals, strict=True)),
                within=30,
            )
        except AssertionError:
            got = [(len(c.acknowledged), c.refused, c.retried, c.wrong[:3]) for c in clients]
            raise AssertionError(f"{got}\n{api.log.read_text()[-2000:]}") from None

    with ThreadPoolExecutor(CLIENTS) as pool:
        running = [pool.submit(client.run) for client in clients]
        try:
            more(40)
            api.kill()
            api.start()
            more(40)
            database.stop()
            database.start()
            more(40)
            api.kill()
            api.start()
            more(40)
        finally:
            enough.set()
        for one in running:
            one.result(timeout=60)
    assert [wrong for client in clients for wrong in client.wrong] == []
    assert all(client.retried for client in clients), "nobody noticed that anything died"
    assert sum(client.refused for client in clients) > 5
    acknowledged = {name: number for client in clients for name, number in client.acknowledged.items()}
    stored = rows(database.database_url)
    assert len({name for name, _ in stored}) == len(stored), "an id is doubled"
    assert not [name for name, _ in stored if name.startswith("bad")]
    assert acknowledged.items() <= dict(stored).items(), "what was acknowledged is not there"
    # Whatever was sent was sent until it was acknowledged, so nothing else is there either.
    assert len(stored) == len(acknowledged)


def rows(url: str) -> list[tuple[str, int]]:
    """Each stored heartbeat: the id that its client gave, and its own."""
    engine = make_engine(url)
    try:
        with engine.connect() as connection:
            found = connection.execute(text("SELECT coalesce(message, 'bad'), id FROM heartbeats"))
            return [(message, number) for message, number in found]
    finally:
        engine.dispose()


def set_up(url: str, pepper: bytes) -> str:
    """The services, and a key that may send their heartbeats."""
    engine = make_engine(url)

    def work(session: Session) -> str:
        now = database_now(session)
        for name in NAMES:
            services.create(session, name=name, policy=Policy(every_s=60), actor=SHELL, now=now)
        made = create_key(session, name="t", scopes=["heartbeats:write"], pepper=pepper, actor=SHELL, now=now)
        return made[1].get_secret_value()

    try:
        return in_transaction(engine, work)
    finally:
        engine.dispose()
