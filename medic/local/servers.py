"""The two embedded servers, alone: what the tests and the bench start."""

from __future__ import annotations

import threading
from pathlib import Path
from types import TracebackType
from typing import Self

from medic.local.folder import DataFolder
from medic.local.leftovers import end_leftovers
from medic.local.postgres import Postgres
from medic.local.program import Program
from medic.local.stream import LogStream
from medic.local.supervisor import Supervisor
from medic.local.valkey import Valkey

_READY_WITHIN = 60.0
"""Seconds: recovery after a crash takes its time."""


class Servers:
    """PostgreSQL and Valkey on a data folder, one or both.

    Use it as a context manager, from a thread that outlives the servers.  Nothing listens on the network.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        durable: bool = True,
        postgres: bool = True,
        valkey: bool = True,
        supervisor: Supervisor | None = None,
    ) -> None:
        """:param durable: false: faster, and a crash of the machine may lose the data.
        :param supervisor: runs the servers; by default one of their own that prints nothing.
        """
        self.folder = DataFolder(data_dir)
        self.supervisor = supervisor or Supervisor(LogStream(None))
        self._durable = durable
        self._wanted = (postgres, valkey)
        self._postgres: Postgres | None = None
        self._valkey: Valkey | None = None

    @property
    def database_url(self) -> str:
        """``postgresql+psycopg2://medic@/medic?host=…``"""
        assert self._postgres is not None, "start() comes first"
        return self._postgres.url

    @property
    def redis_url(self) -> str:
        """``redis+socket://…``, Celery's form and that of ``REDIS_URL``."""
        assert self._valkey is not None, "start() comes first"
        return self._valkey.url

    @property
    def redis_client_url(self) -> str:
        """``unix://…``, for ``redis.from_url``."""
        assert self._valkey is not None, "start() comes first"
        return self._valkey.client_url

    def start(self) -> None:
        """Start the servers and wait until they answer.

        :raises Misconfigured: when the data folder cannot be used; says why and what to do.
        :raises Conflict: when another Medic runs on it.
        :raises Unavailable: when a server does not start.
        """
        self.folder.open()
        try:
            self._start()
        except BaseException:
            self.stop()
            raise

    def stop(self, *, hurry: threading.Event | None = None) -> None:
        """Stop what the supervisor runs, and give the data folder free.

        :param hurry: once set, what still runs is killed without waiting.
        """
        try:
            self.supervisor.stop(hurry=hurry)
        finally:
            self.folder.close()

    def _start(self) -> None:
        stream = self.supervisor.stream
        for line in end_leftovers(self.folder.path, self.folder.postgres / "cluster"):
            stream.say("medic", line)
        want_postgres, want_valkey = self._wanted
        if want_valkey:
            self._valkey = Valkey(self.folder)
            self._run(self._valkey.program())
        if want_postgres:
            self._postgres = Postgres(self.folder, durable=self._durable)
            self._run(self._postgres.prepare())
            self._postgres.create_database()

    def _run(self, program: Program) -> None:
        self.supervisor.start(program)
        self.supervisor.await_ready(
            [program.name],
            within=_READY_WITHIN,
            on_ready=lambda name, seconds: self.supervisor.stream.say(name, f"ready in {seconds:.1f} s"),
        )

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
