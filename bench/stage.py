"""What rows are measured on: embedded servers as `medic up` starts them, databases, and processes.

Everything is started once and shared by the rows of a run; it ends with the run.
"""

from __future__ import annotations

import base64
import os
import secrets
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from sqlalchemy import Engine, create_engine, text
from sqlalchemy.engine import make_url

from bench.processes import Process, start
from medic.db import make_engine
from medic.local.servers import Servers
from medic.migrate import upgrade

ROOT = Path(__file__).resolve().parent.parent
PLUGIN = ROOT / "bench" / "plugin"
"""The folder of the step type that does nothing; being on the path installs it."""


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is measured: the design's counts times ``scale``, and the length of a round in seconds."""

    scale: float = 1.0
    seconds: float = 4.0
    rounds: int = 3

    def count(self, number: int, *, least: int = 1) -> int:
        return max(least, round(number * self.scale))


@dataclass
class Database:
    """One migrated database of its own."""

    url: str
    engine: Engine

    def run(self, sql: str, **values: object) -> None:
        """Execute and commit."""
        with self.engine.begin() as connection:
            connection.execute(text(sql), values)

    def one(self, sql: str, **values: object) -> object:
        with self.engine.connect() as connection:
            return connection.execute(text(sql), values).scalar_one()


@dataclass
class Stage:
    """The servers of one run, and what was started on them."""

    folder: Path
    effort: Effort
    stack: ExitStack
    keep: dict[str, object] = field(default_factory=dict)
    """What one row measured along for another."""

    @cached_property
    def servers(self) -> Servers:
        """PostgreSQL with fsync and synchronous commit on, Valkey with its append-only file: as shipped."""
        return self.stack.enter_context(Servers(self.folder / "servers", durable=True))

    @cached_property
    def pepper(self) -> str:
        return secrets.token_urlsafe(32)

    def database(self, name: str) -> Database:
        """A database of this name, made at the first call."""
        kept = self.keep.get(f"database {name}")
        if isinstance(kept, Database):
            return kept
        admin = create_engine(self.servers.database_url, isolation_level="AUTOCOMMIT")
        with admin.connect() as connection:
            connection.execute(text(f'CREATE DATABASE "{name}"'))
        admin.dispose()
        url = make_url(self.servers.database_url).set(database=name).render_as_string(hide_password=False)
        upgrade(url)
        made = Database(url, make_engine(url, component="medic-bench"))
        self.stack.callback(made.engine.dispose)
        self.keep[f"database {name}"] = made
        return made

    def environ(self, database: Database, *, broker: int = 0) -> dict[str, str]:
        """The environment of a Medic process.

        The limits are raised, not turned off: every request is still counted.

        :param broker: which of the broker's databases.
        """
        return {
            **{name: value for name, value in os.environ.items() if not name.startswith(("MEDIC_", "OTEL_"))},
            "MEDIC_DATABASE_URL": database.url,
            "REDIS_URL": self.servers.redis_url.replace("virtual_host=0", f"virtual_host={broker}"),
            "MEDIC_RUN_DIR": str(self.folder / "run"),
            "MEDIC_API_KEY_PEPPER": self.pepper,
            "MEDIC_SECRETS_KEY": base64.b64encode(self.pepper.encode()[:32]).decode(),
            "MEDIC_AUDIT_KEY": self.pepper,
            "MEDIC_LOG_LEVEL": "WARNING",
            "METRICS_PORT": "0",
            "RATE_LIMIT_HEARTBEAT_REQUESTS": "10000000",
            "RATE_LIMIT_MANAGEMENT_REQUESTS": "10000000",
            "PYTHONPATH": f"{ROOT}:{PLUGIN}",
            "PYTHONWARNINGS": "ignore",
        }

    @contextmanager
    def process(self, name: str, *arguments: str, environ: dict[str, str]) -> Iterator[Process]:
        """A Python process in a group of its own; its log is in the run's folder."""
        process = start(
            [sys.executable, *arguments], environ=environ, log=self.folder / f"{name}.log", folder=ROOT
        )
        try:
            yield process
        finally:
            process.stop()
