"""Real worker processes on real servers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import redis
from sqlalchemy import Engine, text

from medic import audit, broker, playbooks
from medic import settings as settings_
from medic.db import database_now, in_transaction
from medic.db import engine as process_engine
from medic.executions import admission
from medic.executions.dispatch import dispatch
from medic.playbook.grammar import parse
from medic.ratelimit.address import connection_options
from medic.steps import load_types
from medic.times import MAX_DURATION
from tests.recorder import Recorder, recording
from tests.waiting import eventually

ACTOR = audit.Actor("shell", "test")


@pytest.fixture
def outside() -> Iterator[Recorder]:
    """The world that webhooks reach."""
    with recording() as recorder:
        yield recorder


@pytest.fixture
def medic_environ(environ: dict[str, str], outside: Recorder) -> dict[str, str]:
    return environ | {"MEDIC_ALLOWED_WEBHOOK_HOSTS": f"127.0.0.1:{outside.port}", "WORKER_INTERVAL_SECONDS": "1"}


@pytest.fixture
def here(medic_environ: dict[str, str], monkeypatch: pytest.MonkeyPatch, broker_client: redis.Redis) -> Iterator[None]:
    """This process as one of Medic's: it may publish."""
    for name, value in medic_environ.items():
        monkeypatch.setenv(name, value)
    settings_.current.cache_clear()
    process_engine.cache_clear()
    yield
    settings_.current.cache_clear()
    process_engine.cache_clear()


@pytest.fixture
def broker_client(environ: dict[str, str]) -> Iterator[redis.Redis]:
    """The broker, empty."""
    pool = redis.ConnectionPool(**connection_options(environ["REDIS_URL"]))
    client = redis.Redis(connection_pool=pool)
    client.flushdb()
    yield client
    client.flushdb()
    client.close()


@dataclass
class Workers:
    """Worker processes of one test; each in a group of its own, so that it can be killed whole."""

    environ: dict[str, str]
    log: Path
    running: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(self, name: str, *, queues: str, concurrency: int = 1, command: str = "worker") -> subprocess.Popen[bytes]:
        arguments = [sys.executable, "-m", "medic", command]
        if command == "worker":
            arguments += ["--name", name, "--queues", queues, "--concurrency", str(concurrency)]
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                arguments,
                env=os.environ | self.environ | {"PYTHONWARNINGS": "ignore"},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.running.append(process)
        run = Path(self.environ["MEDIC_RUN_DIR"])
        eventually(lambda: list(run.glob(f"{name}*.alive")) or process.poll() is not None, within=30)
        assert process.poll() is None, self.log.read_text()[-3000:]
        return process

    def steps(self, name: str = "steps", concurrency: int = 2) -> subprocess.Popen[bytes]:
        return self.start(name, queues="medic.steps,medic.scripts,medic.housekeeping", concurrency=concurrency)

    def system(self) -> subprocess.Popen[bytes]:
        """The sweeps and beat."""
        self.start("system", queues="medic.system")
        return self.start("beat", queues="", command="beat")

    @staticmethod
    def kill(process: subprocess.Popen[bytes]) -> None:
        """SIGKILL, the whole group."""
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def stop(self) -> None:
        for process in self.running:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


@pytest.fixture
def workers(medic_environ: dict[str, str], tmp_path: Path) -> Iterator[Workers]:
    made = Workers(medic_environ, tmp_path / "workers.log")
    yield made
    made.stop()


@dataclass
class House:
    """Playbooks and executions of one test, by the use cases."""

    engine: Engine

    def playbook(self, source: str) -> None:
        parsed = parse(source, load_types(), longest_step=MAX_DURATION)
        in_transaction(
            self.engine,
            lambda s: playbooks.put(
                s, name=parsed.playbook.name, source=source, parsed=parsed, actor=ACTOR, now=database_now(s)
            ),
        )

    def start(self, name: str, *, publish: bool = True, **variables: Any) -> UUID:
        def work(session: Any) -> UUID | admission.Refused:
            stored = playbooks.find(session, name)
            subject = admission.Subject(
                playbook_id=stored.playbook.id,
                playbook_version=stored.version.version,
                document=parse(stored.version.source, load_types(), longest_step=timedelta(days=1)).playbook,
                started_by=ACTOR,
                variables=variables,
            )
            return admission.start(session, subject, now=database_now(session))

        started = in_transaction(self.engine, work)
        assert isinstance(started, UUID), started
        if publish:
            dispatch(self.engine, execution_id=started, epoch=0)
        return started

    def row(self, execution_id: UUID) -> dict[str, Any]:
        with self.engine.connect() as connection:
            found = connection.execute(text("SELECT * FROM executions WHERE id = :id"), {"id": execution_id})
            return dict(found.mappings().one())

    def steps(self, execution_id: UUID) -> list[dict[str, Any]]:
        return self.rows("SELECT * FROM execution_steps WHERE execution_id = :id ORDER BY position", id=execution_id)

    def attempts(self, execution_id: UUID) -> list[dict[str, Any]]:
        return self.rows("SELECT * FROM step_attempts WHERE execution_id = :id ORDER BY id", id=execution_id)

    def rows(self, sql: str, **values: Any) -> list[dict[str, Any]]:
        with self.engine.connect() as connection:
            return [dict(row) for row in connection.execute(text(sql), values).mappings()]

    def run(self, sql: str, **values: Any) -> None:
        with self.engine.begin() as connection:
            connection.execute(text(sql), values)

    def ended(self, execution_id: UUID, *, within: float = 30.0) -> str:
        """The final state, when it has come."""
        states = ("completed", "failed", "cancelled")

        def final() -> str:
            state: str = self.row(execution_id)["state"]
            return state if state in states else ""

        return eventually(final, within=within)


@pytest.fixture
def house(engine: Engine, here: None) -> Iterator[House]:
    yield House(engine)
    broker.app().pool.force_close_all()
