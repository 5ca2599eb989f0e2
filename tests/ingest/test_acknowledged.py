"""What was acknowledged is never lost, and nothing with an id is doubled, whatever dies meanwhile.

Two real API processes on a real, durable PostgreSQL, under load by every way in, 5 % of it bad.  Both are killed, as
are a worker, a backend and the whole database; at last it restarts in good order.  The clients do what clients should:
they send again, with the same id, until they have an answer.
"""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from sqlalchemy import Engine, text
from sqlalchemy.orm import Session

from medic import audit, services
from medic.access import create_key
from medic.db import database_now, in_transaction, make_engine
from medic.local.servers import Servers
from medic.migrate import upgrade
from medic.services import Policy
from tests.ingest.load import Client, batch, legacies, path, pings, single, twins
from tests.waiting import eventually

SHELL = audit.Actor("shell", "test")
NAMES = ("a", "b", "c")
STEADY = 12
"""Turns of each client between two deaths."""


@dataclass
class Api:
    """The API's processes on one port."""

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

    def kill_worker(self) -> None:
        """The process that does the work; its parent makes another."""
        assert self.process is not None
        workers = psutil.Process(self.process.pid).children()
        assert workers
        for worker in workers:
            worker.kill()


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
def apis(database: Servers, keys: dict[str, str], tmp_path: Path) -> Iterator[list[Api]]:
    made = []
    for number in range(2):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        environ = keys | {
            "MEDIC_DATABASE_URL": database.database_url, "MEDIC_RATE_LIMITER_TYPE": "memory",
            "REDIS_URL": "redis://127.0.0.1:1/0",  # heartbeats need no broker
            "RATE_LIMIT_HEARTBEAT_REQUESTS": "10000000", "RATE_LIMIT_PING_REQUESTS": "10000000",
            "MEDIC_RUN_DIR": str(tmp_path / f"run{number}"), "MEDIC_LOG_FORMAT": "text", "PORT": str(port),
        }  # fmt: skip
        made.append(Api(environ, tmp_path / f"api{number}.log"))
    try:
        for api in made:
            api.start()
        yield made
    finally:
        for api in made:
            api.kill()


@pytest.fixture
def engine(database: Servers) -> Iterator[Engine]:
    made = make_engine(database.database_url)
    yield made
    made.dispose()


def test_nothing_acknowledged_is_lost_and_nothing_with_an_id_is_doubled(
    database: Servers, apis: list[Api], engine: Engine
) -> None:
    seed = int(os.environ.get("MEDIC_TEST_SEED") or secrets.randbelow(2**32))
    print(f"MEDIC_TEST_SEED={seed}")
    key = set_up(engine, apis[0].environ["MEDIC_API_KEY_PEPPER"].encode())
    known = rows(engine, "SELECT name, id, uuid FROM services")
    enough = threading.Event()
    urls = [api.url for api in apis]
    ping = pings({row["name"]: f"/ping/{row['uuid']}" for row in known})
    legacy = legacies({row["name"]: row["id"] for row in known})
    with_ids = [
        *twins(Client(0, urls, key, seed, single, enough)),
        *twins(Client(1, urls, key, seed, batch, enough, batch=True)),
        Client(2, urls, key, seed, path, enough),
    ]
    without = [
        Client(number, urls, key, seed, make, enough, has_ids=False)
        for number, make in ((3, ping), (4, legacy))
    ]
    clients = with_ids + without

    def go_on() -> None:
        """Every client got so many more answers."""
        goals = [client.answered + STEADY for client in clients]
        try:
            eventually(
                lambda: all(c.answered >= goal for c, goal in zip(clients, goals, strict=True)), within=30
            )
        except AssertionError:
            got = [(c.make.__name__, c.answered, c.refused, c.retried, c.wrong[:3]) for c in clients]
            logs = "".join(api.log.read_text()[-2000:] for api in apis)
            raise AssertionError(f"{got}\n{logs}") from None

    with ThreadPoolExecutor(len(clients)) as pool:
        running = [pool.submit(client.run) for client in clients]
        try:
            go_on()
            apis[0].kill()
            apis[0].start()
            go_on()
            kill_database(database)
            go_on()
            apis[1].kill_worker()
            go_on()
            kill_backend(engine)
            go_on()
            for api in apis:
                api.kill()
            database.stop()
            for api in apis:
                api.start()
            database.start()
            go_on()
        finally:
            enough.set()
        for one in running:
            one.result(timeout=60)
    assert [wrong for client in clients for wrong in client.wrong] == []
    assert all(client.retried for client in clients), "nobody noticed that anything died"
    assert all(client.refused for client in clients if client.make is not path)
    engine.dispose()
    check_ids(engine, with_ids)
    check_others(engine, without)
    check_states(engine)


def kill_database(database: Servers) -> None:
    """SIGKILL to the server; what it leaves is replayed when the supervisor starts it again."""
    process = database.supervisor.process("postgres")
    process.kill_hard()
    eventually(lambda: process.exit_code() is not None)

    def is_back() -> bool:
        database.supervisor.tick()
        now = database.supervisor.process("postgres")
        return now.exit_code() is None and now.is_ready()

    eventually(is_back, within=60)


def kill_backend(engine: Engine) -> None:
    """SIGKILL to a connection of the API: the server ends all the others too, and recovers."""
    engine.dispose()
    asked = "SELECT pid FROM pg_stat_activity WHERE application_name = 'medic-api' LIMIT 1"
    found = eventually(lambda: rows(engine, asked))
    os.kill(found[0]["pid"], signal.SIGKILL)


def check_ids(engine: Engine, clients: list[Client]) -> None:
    """Each acknowledged id has its one heartbeat, and there is nothing else: all was sent until it was answered."""
    acknowledged: dict[str, int | None] = {}
    for client in clients:
        for name, number in client.acknowledged.items():
            assert acknowledged.setdefault(name, number) == number, f"{name} was acknowledged as two"
    stored = rows(
        engine,
        "SELECT i.id AS name, i.heartbeat_id, count(h.id) AS n FROM heartbeat_ids i"
        "  LEFT JOIN heartbeats h ON h.id = i.heartbeat_id AND h.service_id = i.service_id"
        "  GROUP BY i.id, i.heartbeat_id",
    )
    assert {row["name"]: row["heartbeat_id"] for row in stored} == acknowledged
    assert len(stored) == len(acknowledged), "an id is doubled"
    assert {row["n"] for row in stored} == {1}, "an id without its heartbeat"


def check_others(engine: Engine, clients: list[Client]) -> None:
    """What has no id is there at least once; its run is one, and ended."""
    found = rows(
        engine,
        "SELECT message, run_id, kind FROM heartbeats h WHERE NOT EXISTS"
        "  (SELECT 1 FROM heartbeat_ids i WHERE i.heartbeat_id = h.id)",
    )
    acknowledged = {name for client in clients for name in client.acknowledged}
    runs = {row["run_id"]: row["state"] for row in rows(engine, "SELECT run_id, state FROM runs")}
    told = {row["message"] for row in found}
    started = {(row["run_id"], row["kind"]) for row in found}
    for name in acknowledged:
        stem, word = name.rsplit("-", 1)
        if name.startswith("ping"):
            assert name in told, f"{name} was acknowledged and is not there"
            state = {"start": None, "0": "completed", "fail": "failed"}[word]
            assert state is None or runs[str(uuid.uuid5(uuid.NAMESPACE_OID, stem))] == state
        elif word == "beat":
            assert name in told, f"{name} was acknowledged and is not there"
        else:
            assert (f"{stem}-run", {"start": "start", "end": "complete"}[word]) in started
            assert word == "start" or runs[f"{stem}-run"] == "completed"
    # What has neither a message nor a run that we gave it is the second copy of something with an id.
    strangers = [
        row for row in found if not str(row["message"] or row["run_id"]).startswith(("ping-", "legacy-"))
    ]
    assert strangers == []


def check_states(engine: Engine) -> None:
    """The hot row moves in the transaction of its heartbeats, or not at all."""
    assert rows(
        engine,
        "SELECT s.service_id FROM service_states s JOIN (SELECT service_id, max(event_at) AS at FROM heartbeats"
        " GROUP BY 1) h USING (service_id) WHERE s.last_signal_at IS DISTINCT FROM h.at",
    ) == []  # fmt: skip


def rows(engine: Engine, sql: str) -> list[dict[str, Any]]:
    with engine.connect() as connection:
        return [dict(row) for row in connection.execute(text(sql)).mappings()]


def set_up(engine: Engine, pepper: bytes) -> str:
    """The services, and a key that may send their heartbeats and make others."""

    def work(session: Session) -> str:
        now = database_now(session)
        for name in NAMES:
            services.create(session, name=name, policy=Policy(every_s=60), actor=SHELL, now=now)
        made = create_key(
            session,
            name="t",
            scopes=["heartbeats:write", "services:write"],
            pepper=pepper,
            actor=SHELL,
            now=now,
        )
        return made[1].get_secret_value()

    return in_transaction(engine, work)
