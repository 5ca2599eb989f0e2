from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from medic.errors import SandboxUnavailable
from medic.sandbox.folders import remove, remove_leftovers, run_folder

HOLDER = """
import sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from medic.sandbox.folders import run_folder
with run_folder(Path(sys.argv[2]), b"x"):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_folder_is_private_holds_the_script_and_goes(tmp_path: Path) -> None:
    with run_folder(tmp_path / "base", b"echo") as folder:
        assert stat.S_IMODE(folder.path.stat().st_mode) == 0o700
        assert stat.S_IMODE(folder.work.stat().st_mode) == 0o700
        assert stat.S_IMODE(folder.script.stat().st_mode) == 0o600
        assert folder.script.read_bytes() == b"echo"
    assert list((tmp_path / "base").iterdir()) == []


def test_leftovers_of_a_killed_worker_are_removed_and_those_of_a_living_one_stay(tmp_path: Path) -> None:
    base = tmp_path / "base"
    root = str(Path(__file__).parents[2])
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, root, str(base)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    assert remove_leftovers(base) == 0
    assert len(list(base.iterdir())) == 1
    holder.kill()
    holder.communicate()
    assert len(list(base.iterdir())) == 1
    assert remove_leftovers(base) == 1
    assert list(base.iterdir()) == []


def test_nothing_to_remove_is_no_error(tmp_path: Path) -> None:
    assert remove_leftovers(tmp_path / "never-made") == 0


def test_a_link_that_poses_as_the_base_is_refused(tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    (tmp_path / "base").symlink_to(tmp_path / "theirs")
    with pytest.raises(SandboxUnavailable), run_folder(tmp_path / "base", b""):
        pass


def test_a_leftover_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    base, theirs = tmp_path / "base", tmp_path / "theirs"
    with run_folder(base, b""):
        pass
    theirs.mkdir()
    (theirs / "file").touch()
    (base / "run-x").symlink_to(theirs)
    assert remove_leftovers(base) == 0
    assert (theirs / "file").exists()


def test_a_base_that_cannot_be_made_says_why(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(SandboxUnavailable, match=os.strerror(20)),
        run_folder(tmp_path / "file" / "base", b""),
    ):
        pass


def test_depth_closed_folders_and_odd_names_do_not_stop_a_removal(tmp_path: Path) -> None:
    doomed, kept = tmp_path / "doomed", tmp_path / "kept"
    kept.mkdir()
    (kept / "file").touch()
    for path in (doomed, doomed / "closed", doomed / "closed" / "in", doomed / ".removing-0"):
        path.mkdir()
    (doomed / "closed" / "file").touch()
    (doomed / "link").symlink_to(kept)
    (doomed / "closed" / "link").symlink_to(kept)
    os.mkfifo(doomed / "pipe")
    (doomed / "\udcff\n -rf").touch()
    above = os.open(doomed, os.O_RDONLY)
    for _ in range(3000):  # deeper than a path is long, and than Python recurses
        os.mkdir("deep", dir_fd=above)
        below = os.open("deep", os.O_RDONLY, dir_fd=above)
        os.close(above)
        above = below
    os.close(above)
    (doomed / "closed" / "in").chmod(0)
    (doomed / "closed").chmod(0)
    remove(doomed)
    assert not doomed.exists()
    assert (kept / "file").exists()
