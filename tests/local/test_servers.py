"""The embedded servers, really started."""

from __future__ import annotations

import os
import pwd
import select
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg2
import pytest
import redis
import sqlalchemy

from medic.errors import Conflict, Misconfigured
from medic.local.binaries import postgres_folder
from medic.local.identity import Identity, give, identity_for
from medic.local.process import launch_command
from medic.local.servers import Servers

ROOT = Path(__file__).resolve().parents[2]
as_root = pytest.mark.skipif(os.geteuid() != 0 or sys.platform != "linux", reason="needs root on Linux")

RUN = """
import sys, time
from pathlib import Path
from medic.local.process import launch_command
from medic.local.servers import Servers
servers = Servers(Path(sys.argv[1]), durable=False)
servers.start()
print(servers.database_url, flush=True)
if "wait" in sys.argv:
    time.sleep(60)
servers.stop()
"""


def run_as(uid: int, gid: int, data: Path) -> subprocess.CompletedProcess[str]:
    """Run `RUN` as another user, who may pass through root's folders: the interpreter may lie there."""
    return subprocess.run(
        launch_command((sys.executable, "-c", RUN, str(data)), identity=f"reach:{uid}:{gid}"),
        cwd=ROOT,
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture
def folder() -> Iterator[Path]:
    # Short, and open on the way, unlike pytest's own: another user shall reach it too.
    path = Path(tempfile.mkdtemp(prefix="medic-test-"))
    path.chmod(0o711)
    yield path
    shutil.rmtree(path)


def value(servers: Servers, statement: str) -> object:
    engine = sqlalchemy.create_engine(servers.database_url)
    try:
        with engine.begin() as connection:
            result = connection.exec_driver_sql(statement)
            return result.scalar() if result.returns_rows else None
    finally:
        engine.dispose()


def client(servers: Servers) -> redis.Redis:
    return redis.Redis.from_url(servers.redis_client_url)


def test_a_second_start_finds_all_as_it_was(folder: Path) -> None:
    with Servers(folder / "data") as servers:
        value(servers, "CREATE TABLE kept AS SELECT 42 AS answer")
        with client(servers) as valkey:
            valkey.lpush("queue", "message")
        assert value(servers, "SHOW fsync") == "on"
        assert value(servers, "SHOW server_encoding") == "UTF8"
        assert value(servers, "SELECT datlocale FROM pg_database WHERE datname = 'medic'") == "C.UTF-8"
        assert value(servers, "SHOW listen_addresses") == ""
        with pytest.raises(Conflict, match=rf"process {os.getpid()}"):
            Servers(folder / "data").start()
    with Servers(folder / "data", durable=False) as servers:
        assert value(servers, "SELECT answer FROM kept") == 42
        assert value(servers, "SHOW fsync") == "off"
        with client(servers) as valkey:
            assert valkey.lrange("queue", 0, -1) == [b"message"]
            assert valkey.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}


def test_after_a_kill_the_next_start_works_at_once(folder: Path) -> None:
    command = [sys.executable, "-c", RUN, str(folder / "data"), "wait"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as run:
        assert run.stdout is not None
        assert run.stdout.readline().startswith("postgresql")
        # A session that is open does not hold up the next start either.
        session = psycopg2.connect(host=str(folder / "data" / "sockets"), user="medic", dbname="medic")
        run.send_signal(signal.SIGKILL)
    with Servers(folder / "data", durable=False) as servers:
        assert value(servers, "SELECT 1") == 1
        with client(servers) as valkey:
            assert valkey.ping()
    session.close()


def test_a_pid_file_that_names_a_stranger_is_no_obstacle(folder: Path) -> None:
    """In containers a dead server's number is often another process's by the next start."""
    with Servers(folder / "data", durable=False) as servers:
        pid_file = servers.folder.postgres / "cluster" / "postmaster.pid"
        lines = pid_file.read_text().splitlines()
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as stranger:
        pid_file.write_text("\n".join([str(stranger.pid), *lines[1:]]) + "\n")
        os.chown(pid_file, pid_file.parent.stat().st_uid, -1)
        with Servers(folder / "data", durable=False) as servers:
            assert value(servers, "SELECT 1") == 1
        assert stranger.poll() is None
        stranger.kill()


def test_data_of_another_postgresql_is_refused_with_the_way_on(folder: Path) -> None:
    cluster = folder / "data" / "postgres" / "cluster"
    cluster.mkdir(parents=True)
    (cluster / "PG_VERSION").write_text("16\n")
    with pytest.raises(Misconfigured, match=r"PostgreSQL 16, this Medic brings 18.*pg_dump.*--data-dir"):
        Servers(folder / "data").start()
    assert [path.name for path in cluster.iterdir()] == ["PG_VERSION"]


def test_a_long_path_works_too(folder: Path) -> None:
    with Servers(folder / ("long " * 30), durable=False) as servers:
        assert value(servers, "SELECT 1") == 1
        with client(servers) as valkey:
            assert valkey.ping()
        sockets = servers.folder.sockets()
    shutil.rmtree(sockets)


def test_one_server_alone(folder: Path) -> None:
    with Servers(folder / "data", postgres=False) as servers, client(servers) as valkey:
        assert valkey.ping()
    assert not (folder / "data" / "postgres").exists()


@as_root
@pytest.mark.parametrize("kind", ["map", "user", "reach"])
def test_root_runs_postgresql_as_somebody_else(folder: Path, kind: str) -> None:
    """Each way that root may have to take: by whom the data is owned, and whether he reaches it."""
    nobody = pwd.getpwnam("nobody")
    data = folder / "data" / "postgres"
    data.mkdir(parents=True)
    if kind != "map":
        give(data, Identity("user", nobody.pw_uid, nobody.pw_gid))
    if kind == "reach":
        folder.chmod(0o700)
    chosen = identity_for(postgres_folder() / "postgres", data)
    assert chosen.kind == kind
    with Servers(folder / "data", durable=False) as servers:
        assert value(servers, "SELECT 1") == 1
        assert data.stat().st_uid == chosen.owner[0]
        postmaster = int((data / "cluster" / "postmaster.pid").read_text().splitlines()[0])
        status = Path(f"/proc/{postmaster}/status").read_text()
        effective = int(status.split("CapEff:")[1].split()[0], 16)
        assert effective == (1 << 1 if kind == "reach" else 0)
    # And killed with its owner, like the others: a change of identity must not lose the signal.
    command = [sys.executable, "-c", RUN, str(folder / "data"), "wait"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as run:
        assert run.stdout is not None
        assert run.stdout.readline().startswith("postgresql")
        postmaster = int((data / "cluster" / "postmaster.pid").read_text().splitlines()[0])
        killer = os.pidfd_open(postmaster)
        run.kill()
    readable, _, _ = select.select([killer], [], [], 10)
    os.close(killer)
    assert readable, "PostgreSQL outlived a killed supervisor"


@as_root
def test_an_ordinary_user_runs_it_as_himself(folder: Path) -> None:
    nobody = pwd.getpwnam("nobody")
    os.chown(folder, nobody.pw_uid, nobody.pw_gid)
    done = run_as(nobody.pw_uid, nobody.pw_gid, folder / "data")
    assert done.stdout.startswith("postgresql+psycopg2://medic@/medic?host="), done.stderr
    assert (folder / "data" / "postgres" / "cluster").stat().st_uid == nobody.pw_uid
    # Root may take it over later; it stays his.
    with Servers(folder / "data", durable=False) as servers:
        assert value(servers, "SELECT 1") == 1
    assert (folder / "data" / "postgres" / "cluster").stat().st_uid == nobody.pw_uid


@as_root
def test_a_user_without_a_name_runs_it_too(folder: Path) -> None:
    """As in a container that is given any user id."""
    os.chown(folder, 54_321, 54_321)
    done = run_as(54_321, 54_321, folder / "data")
    assert done.stdout.startswith("postgresql+psycopg2://medic@/medic?host="), done.stderr
