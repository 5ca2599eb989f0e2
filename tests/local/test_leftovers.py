"""What a killed run left behind is found by its mark and ended; nothing else is."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from medic.local.leftovers import MARK, end_leftovers

DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
Sleeper = subprocess.Popen[str]


@pytest.fixture
def sleepers(tmp_path: Path) -> Iterator[dict[str, Sleeper]]:
    marks = {"ours": str(tmp_path), "another folder's": str(tmp_path / "other"), "unmarked": ""}
    started = {
        name: subprocess.Popen(
            [sys.executable, "-c", DEAF], env={**os.environ, MARK: mark}, stdout=subprocess.PIPE, text=True
        )
        for name, mark in marks.items()
    }
    for sleeper in started.values():
        assert sleeper.stdout is not None
        assert sleeper.stdout.readline() == "up\n"
    yield started
    for sleeper in started.values():
        sleeper.kill()
        sleeper.communicate()


def test_only_the_folders_own_processes_are_ended(tmp_path: Path, sleepers: dict[str, Sleeper]) -> None:
    ours = sleepers["ours"]
    lines = end_leftovers(tmp_path, tmp_path / "postgres" / "cluster")
    assert [f"({ours.pid})" in line for line in lines] == [True]
    assert ours.wait(timeout=5) == -signal.SIGKILL
    assert sleepers["another folder's"].poll() is None
    assert sleepers["unmarked"].poll() is None


def test_a_start_inside_a_marked_process_does_not_end_itself(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from medic.local.leftovers import end_leftovers\n"
        "print(end_leftovers(Path(sys.argv[1]), Path('none')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        env={**os.environ, MARK: str(tmp_path)},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    assert done.stdout == "[]\n"
