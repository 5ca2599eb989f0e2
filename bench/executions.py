"""Medic's engine from the outside: playbooks put, executions started, workers run."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from uuid import UUID

import redis
from sqlalchemy.orm import Session

from bench.fill import ACTOR
from bench.processes import Process
from bench.stage import PLUGIN, Database, Stage
from medic import playbooks
from medic import settings as settings_
from medic.db import database_now, in_transaction
from medic.executions import admission
from medic.executions.dispatch import dispatch
from medic.steps import load_types

FLOOR_BROKER = 1
"""The floor has a database of the broker to itself, so that neither takes the other's messages."""


@dataclass(frozen=True, slots=True)
class Engine:
    """The database of executions; this process may publish to its workers."""

    stage: Stage
    database: Database
    broker: redis.Redis

    def playbook(self, source: str) -> None:
        parsed = playbooks.read(source, longest_step=timedelta(hours=1))
        in_transaction(
            self.database.engine,
            lambda session: playbooks.put(
                session, name=parsed.playbook.name, source=source, parsed=parsed, actor=ACTOR,
                now=database_now(session),
            ),
        )  # fmt: skip

    def admit(self, playbook: str, count: int) -> list[UUID]:
        """Executions that are due, and not dispatched yet."""

        def start(session: Session) -> UUID:
            stored = playbooks.find(session, playbook)
            document = playbooks.read(stored.version.source, longest_step=timedelta(hours=1)).playbook
            subject = admission.Subject(
                playbook_id=stored.playbook.id, playbook_version=stored.version.version, document=document,
                started_by=ACTOR,
            )  # fmt: skip
            started = admission.start(session, subject, now=database_now(session))
            assert isinstance(started, UUID), started
            return started

        return [in_transaction(self.database.engine, start) for _ in range(count)]

    def dispatch(self, executions: list[UUID]) -> None:
        for execution in executions:
            dispatch(self.database.engine, execution_id=execution, epoch=0)

    def count(self, where: str) -> int:
        """Executions of this kind."""
        found = self.database.one(f"SELECT count(*) FROM executions WHERE {where}")
        assert isinstance(found, int)
        return found

    @contextmanager
    def worker(
        self, name: str, queues: str, *, concurrency: int, command: str = "worker", **environ: str
    ) -> Iterator[Process]:
        """`medic worker` or `medic beat`, ready."""
        arguments = ["-m", "medic", command]
        if command == "worker":
            arguments += ["--name", name, "--queues", queues, "--concurrency", str(concurrency)]
        whole = self.stage.environ(self.database) | environ
        with self.stage.process(name, *arguments, environ=whole) as process:
            process.await_(lambda: lives(whole, name))
            yield process


def lives(environ: dict[str, str], name: str) -> bool:
    """Whether a worker or beat of this name has shown that it lives."""
    return any(Path(environ["MEDIC_RUN_DIR"]).glob(f"{name}*.alive"))


def engine(stage: Stage) -> Engine:
    """The engine's database, with this process's settings made to match, once per run."""
    kept = stage.keep.get("engine")
    if isinstance(kept, Engine):
        return kept
    database = stage.database("engine")
    os.environ.update(stage.environ(database))
    settings_.current.cache_clear()
    sys.path.insert(0, str(PLUGIN))
    importlib.invalidate_caches()
    load_types.cache_clear()
    made = Engine(stage, database, redis.Redis.from_url(stage.servers.redis_client_url))
    stage.stack.callback(made.broker.close)
    stage.keep["engine"] = made
    return made
