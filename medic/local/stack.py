"""Everything that `medic up` runs, as a library: the servers, the keys, migrations, the processes."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self, TextIO

from medic.local import components
from medic.local.keys import key_files, write_private
from medic.local.leftovers import MARK
from medic.local.ports import choose_port, reachable
from medic.local.servers import Servers
from medic.local.stream import LogStream
from medic.local.supervisor import Supervisor
from medic.settings import Settings

_READY_WITHIN = 90.0


class Stack:
    """A whole Medic on one data folder.

    Start it from a thread that outlives it.  ``environ`` is what the children see; after `start` it names
    the servers, the keys' files and the ports, so ``Settings.from_env(stack.environ)`` is their settings.
    """

    def __init__(
        self,
        data_dir: Path,
        environ: Mapping[str, str],
        *,
        ports: Mapping[str, int] | None = None,
        durable: bool = True,
        run: Sequence[str] = components.COMPONENTS,
        out: TextIO | None = None,
    ) -> None:
        """:param environ: Medic's variables; a database or Redis that they name is used, not embedded.
        :param ports: ``api`` and ``flower``, in place of the variables' values; 0 picks a free one.
        :param durable: false: a crash of the machine may lose the data.
        :param run: which of `components.COMPONENTS`.
        :param out: where the log stream goes; ``None`` drops it.
        :raises Misconfigured: when a variable is wrong.
        """
        given = Settings.from_env(environ)
        self.environ = dict(environ) | components.import_path(environ)
        self._ports = {"api": given.port, "flower": given.flower_port} | dict(ports or {})
        self._given = given
        self._run = tuple(run)
        self.stream = LogStream(out)
        self.supervisor = Supervisor(self.stream)
        self.servers = Servers(
            data_dir,
            durable=durable,
            postgres=given.database_url is None,
            valkey=given.redis_url is None,
            supervisor=self.supervisor,
        )
        self.new_admin_key: str | None = None
        """The admin key, if this start made it."""

    @property
    def settings(self) -> Settings:
        """The children's settings; whole after `start`."""
        return Settings.from_env(self.environ)

    @property
    def url(self) -> str:
        """Where the API is, from this machine."""
        return f"http://{_literal(reachable(self._given.host))}:{self._ports['api']}"

    @property
    def flower_url(self) -> str:
        """Where Flower is, from this machine."""
        return f"http://{_literal(reachable(components.flower_host(self._given)))}:{self._ports['flower']}"

    @property
    def admin_key_file(self) -> Path:
        """The file, mode 0600, that holds the admin key of the first start."""
        return self.servers.folder.admin_key

    def start(self, *, hurry: threading.Event | None = None) -> None:
        """Start everything and wait until it is ready.

        :param hurry: as for `stop`, for the case that the start fails or is interrupted.
        :raises MedicError: when a port, the data folder, a key, a server or a process does not let it;
            everything that was started is stopped again.
        """
        database_was_there = (self.servers.folder.postgres / "cluster").exists()
        self.servers.start()
        try:
            # After the servers: their start ends what a killed run left on our ports.
            self._choose_ports()
            self._complete_environ(database_exists=database_was_there)
            self._migrate()
            self._start_components()
        except BaseException:
            self.stop(hurry=hurry)
            raise

    def watch(self, until: threading.Event) -> None:
        """Restart what exits, until the event is set."""
        self.supervisor.watch(until)

    def stop(self, *, hurry: threading.Event | None = None) -> None:
        """Stop everything in order: beat, workers (warm), Flower, the API, Valkey, PostgreSQL.

        :param hurry: once set, what still runs is killed without waiting.
        """
        self.servers.stop(hurry=hurry)

    def _choose_ports(self) -> None:
        if "api" in self._run:
            self._ports["api"] = choose_port(
                self._given.host, self._ports["api"], what="the API", way_on="move it with PORT or --port"
            )
        if "flower" in self._run:
            self._ports["flower"] = choose_port(
                components.flower_host(self._given),
                self._ports["flower"],
                what="Flower",
                way_on="move it with MEDIC_FLOWER_PORT or --flower-port",
            )

    def _complete_environ(self, *, database_exists: bool) -> None:
        folder = self.servers.folder
        environ = self.environ
        environ |= {MARK: str(folder.path), "PYTHONUNBUFFERED": "1"}
        environ |= {"PORT": str(self._ports["api"]), "MEDIC_FLOWER_PORT": str(self._ports["flower"])}
        if self._given.database_url is None:
            environ["MEDIC_DATABASE_URL"] = self.servers.database_url
        if self._given.redis_url is None:
            environ["REDIS_URL"] = self.servers.redis_url
        environ |= key_files(folder.keys, environ, database_exists=database_exists)
        for name, value in (
            ("MEDIC_BASE_URL", self.url),
            ("MEDIC_RUN_DIR", str(folder.run)),
            ("MEDIC_LOG_FORMAT", "text"),
        ):
            if not environ.get(name):
                environ[name] = value

    def _migrate(self) -> None:
        from medic.access import first_admin_key  # noqa: PLC0415 - `medic up --help` needs no database
        from medic.migrate import upgrade  # noqa: PLC0415 - see above

        settings = self.settings
        database_url = settings.need_database_url()
        upgrade(database_url)
        self.stream.say("medic", "database is up to date")
        self.new_admin_key = first_admin_key(database_url, settings.need_pepper())
        if self.new_admin_key is not None:
            write_private(self.admin_key_file, self.new_admin_key + "\n")

    def _start_components(self) -> None:
        settings = self.settings
        metrics_port = settings.metrics_port if self.environ.get("METRICS_PORT") else 0
        for name in self._run:
            environ = dict(self.environ)
            if name in {"system", "deliveries", "steps", "beat"}:
                # They share this machine: each has a port of its own, or none.
                environ["METRICS_PORT"] = str(metrics_port)
                metrics_port += 1 if metrics_port else 0
            self.supervisor.start(components.program(name, settings, environ))
        self.supervisor.await_ready(
            self._run,
            within=_READY_WITHIN,
            on_ready=lambda name, seconds: self.stream.say(name, f"ready in {seconds:.1f} s"),
        )
        client = {"url": self.url, "key_file": str(self.admin_key_file)}
        write_private(self.servers.folder.client, json.dumps(client) + "\n")

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def _literal(host: str) -> str:
    return f"[{host}]" if ":" in host else host
