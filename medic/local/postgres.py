"""The embedded PostgreSQL: one superuser ``medic``, one database ``medic``, one socket in a 0700 folder."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

from medic.errors import Misconfigured, Unavailable
from medic.local.binaries import POSTGRES_MAJOR, postgres_folder
from medic.local.folder import DataFolder
from medic.local.identity import give, identity_for
from medic.local.leftovers import MARK
from medic.local.process import launch_command
from medic.local.program import Program

STAGE = 90
_PORT = 5432
"""Part of the socket's name; nothing listens on the network."""

_SETTINGS = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "max_connections": "100",
    "shared_buffers": "128MB",
    "log_min_messages": "warning",
    "log_line_prefix": "%m [%p] ",
    "timezone": "UTC",
    "log_timezone": "UTC",
}
_FAST = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}


class Postgres:
    """PostgreSQL on a data folder that is open and locked."""

    def __init__(self, folder: DataFolder, *, durable: bool) -> None:
        """:param durable: false gives up what a crash of the machine would lose; for tests and the demo."""
        self._folder = folder
        self._durable = durable
        self._sockets = folder.sockets()

    @property
    def url(self) -> str:
        """SQLAlchemy's URL of the database."""
        return f"postgresql+psycopg2://medic@/medic?host={quote(str(self._sockets), safe='/')}&port={_PORT}"

    def prepare(self) -> Program:
        """Make the database cluster where there is none, and say how the server is run.

        :raises Misconfigured: for data of another major, or data that nobody here can use.
        :raises Unavailable: when the cluster cannot be made.
        """
        data = self._folder.postgres
        programs = postgres_folder()
        check_major(data)
        data.mkdir(mode=0o700, exist_ok=True)
        identity = identity_for(programs / "postgres", data)
        os.chown(self._sockets, *identity.owner)
        cluster = data / "cluster"
        if not (cluster / "PG_VERSION").exists():
            _init(programs / "initdb", cluster, str(identity), durable=self._durable)
        elif cluster.stat().st_uid != identity.owner[0]:
            give(data, identity)
        settings = _SETTINGS | ({} if self._durable else _FAST)
        settings |= {"unix_socket_directories": str(self._sockets), "port": str(_PORT)}
        options = [part for key, value in settings.items() for part in ("-c", f"{key}={value}")]
        return Program(
            name="postgres",
            argv=(str(programs / "postgres"), "-D", str(cluster), *options),
            env=_environ() | {MARK: str(self._folder.path)},
            stage=STAGE,
            stop_signal=signal.SIGINT,  # fast shutdown: ends sessions, writes a checkpoint
            stop_within=30.0,
            kill_signal=signal.SIGQUIT,  # immediate shutdown: the next start replays the log
            orphan_signal=signal.SIGINT,
            group_kill=False,  # the postmaster ends its own; each backend leads a group of its own anyway
            identity=str(identity),
            log=self._folder.log / "postgres.log",
            probe=lambda: _says_ready(cluster / "postmaster.pid"),
        )

    def create_database(self) -> None:
        """Create the database, where it is missing, once the server is ready."""
        import psycopg2  # noqa: PLC0415 - only where the server is ours

        connection = psycopg2.connect(host=str(self._sockets), port=_PORT, user="medic", dbname="postgres")
        try:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute("SELECT FROM pg_database WHERE datname = 'medic'")
                if cursor.fetchone() is None:
                    cursor.execute("CREATE DATABASE medic")
        finally:
            connection.close()


def check_major(data: Path) -> None:
    """Refuse data of another PostgreSQL major.

    :param data: the data folder's ``postgres``.
    :raises Misconfigured: with the way on.
    """
    try:
        found = (data / "cluster" / "PG_VERSION").read_text(encoding="ascii").strip()
    except FileNotFoundError:
        return
    except OSError as error:
        raise Misconfigured(
            f"The database in {data} cannot be read ({error.strerror}): start as the user who made it."
        ) from None
    if found != str(POSTGRES_MAJOR):
        raise Misconfigured(
            f"{data} holds data of PostgreSQL {found}, this Medic brings {POSTGRES_MAJOR}. Dump it with "
            f"the Medic that made it (pg_dump of PostgreSQL {found}) and load the dump on a new folder "
            "(--data-dir), or set MEDIC_DATABASE_URL to a server that holds it."
        )


def _init(initdb: Path, cluster: Path, identity: str, *, durable: bool) -> None:
    # Only a whole cluster gets the final name: a start that was killed in between is done over.
    draft = cluster.with_name("cluster.new")
    options = [
        "--username=medic", "--auth=trust", "--encoding=UTF8", "--no-instructions",
        "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8",
        *([] if durable else ["--no-sync"]),
    ]  # fmt: skip
    shutil.rmtree(draft, ignore_errors=True)
    command = launch_command((str(initdb), "-D", str(draft), *options), identity=identity)
    done = subprocess.run(
        command, env=_environ(), capture_output=True, text=True, check=False, process_group=0
    )
    if done.returncode != 0:
        words = (done.stderr or done.stdout).strip().splitlines()[-3:]
        raise Unavailable("PostgreSQL could not make its data folder: " + " ".join(words))
    draft.rename(cluster)


def _environ() -> dict[str, str]:
    # Nothing of ours: PGDATA, PGPORT and the like would steer it; a set TZ spares initdb its search.
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC"}


def _says_ready(pid_file: Path) -> bool:
    """Whether the server has written its state ``ready`` on line 8 of postmaster.pid."""
    with suppress(OSError, IndexError):
        return pid_file.read_text(encoding="utf-8").splitlines()[7].strip() == "ready"
    return False
