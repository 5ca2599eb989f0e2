"""The data folder, its lock and its socket folder; the ports."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from medic.errors import Conflict, Misconfigured
from medic.local.folder import DataFolder
from medic.local.ports import answers, choose_port, reachable

as_user = pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[DataFolder]:
    folder = DataFolder(tmp_path / "data")
    yield folder
    folder.close()


def test_a_new_folder_is_closed_to_others_and_to_git(folder: DataFolder) -> None:
    folder.open()
    assert stat.S_IMODE(folder.path.stat().st_mode) == 0o700
    assert (folder.path / ".gitignore").read_text() == "*\n"


def test_a_second_start_on_the_folder_says_who_runs(folder: DataFolder) -> None:
    folder.open()
    second = DataFolder(folder.path)
    with pytest.raises(Conflict, match=rf"process {os.getpid()}.*--data-dir"):
        second.open()
    folder.close()
    second.open()
    second.close()


def test_the_lock_of_a_killed_run_is_no_obstacle(folder: DataFolder) -> None:
    code = (
        "import sys, time; from pathlib import Path; from medic.local.folder import DataFolder\n"
        "DataFolder(Path(sys.argv[1])).open(); print('locked', flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", code, str(folder.path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "locked\n"
        with pytest.raises(Conflict, match=f"process {holder.pid}"):
            DataFolder(folder.path).open()
        holder.send_signal(signal.SIGKILL)
    assert (folder.path / "medic.lock").read_text() == f"{holder.pid}\n"
    folder.open()
    assert (folder.path / "medic.lock").read_text() == f"{os.getpid()}\n"


def test_a_file_in_the_folders_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Misconfigured, match=r"is not a folder: choose another with --data-dir"):
        DataFolder(tmp_path / "file").open()
    with pytest.raises(Misconfigured, match=r"is not a folder"):
        DataFolder(tmp_path / "file" / "below").open()


@as_user
def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(Misconfigured, match=r"cannot be written \(Permission denied\)"):
        DataFolder(tmp_path / "data").open()


def test_a_folder_where_nobody_can_write_is_refused() -> None:
    with pytest.raises(Misconfigured, match=r"cannot be written.*--data-dir"):
        DataFolder(Path("/proc/medic")).open()


def test_sockets_lie_in_the_data_folder_when_its_path_is_short() -> None:
    # The test's own folder may be long, so only the choice is looked at.
    folder = DataFolder(Path("/proc/self/x"))
    with pytest.raises(OSError, match="sockets"):
        folder.sockets()


@pytest.mark.parametrize("name", ["x" * 90, "a,b", "with space", "ünï"])
def test_sockets_move_where_a_path_is_too_long_or_not_plain(tmp_path: Path, name: str) -> None:
    folder = DataFolder(tmp_path / name)
    folder.open()
    try:
        sockets = folder.sockets()
        assert not sockets.is_relative_to(folder.path)
        assert stat.S_IMODE(sockets.stat().st_mode) == 0o700
        assert DataFolder(folder.path).sockets() == sockets  # the next start finds the same one
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(sockets / ".s.PGSQL.5432"))
        (sockets / ".s.PGSQL.5432").unlink()
        sockets.chmod(0o755)
        with pytest.raises(Misconfigured, match="in the way"):
            folder.sockets()
        sockets.rmdir()
        sockets.symlink_to(tmp_path)
        with pytest.raises(Misconfigured, match="in the way"):
            folder.sockets()
        sockets.unlink()
    finally:
        folder.close()


def test_a_port_that_is_taken_says_how_to_move() -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        assert answers("0.0.0.0", port)
        with pytest.raises(Conflict, match=rf"Port {port} on 127.0.0.1 is taken, the API .*or set PORT\."):
            choose_port("127.0.0.1", port, what="the API", way_on="set PORT")
    assert choose_port("127.0.0.1", port, what="the API", way_on="set PORT") == port
    assert not answers("127.0.0.1", port)


def test_port_0_picks_a_free_one() -> None:
    assert choose_port("127.0.0.1", 0, what="the API", way_on="set PORT") > 1024


def test_an_address_of_another_machine_is_refused() -> None:
    with pytest.raises(Misconfigured, match=r"cannot listen on 192\.0\.2\.1:0"):
        choose_port("192.0.2.1", 0, what="the API", way_on="set MEDIC_HOST")


def test_a_server_on_every_address_is_reached_by_loopback() -> None:
    assert [reachable(host) for host in ("0.0.0.0", "::", "10.0.0.1")] == ["127.0.0.1", "::1", "10.0.0.1"]
