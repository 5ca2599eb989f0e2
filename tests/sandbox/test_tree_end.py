"""Whatever a script does, at the end nothing of it is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from medic.sandbox import Limits, probe, remove_leftovers
from medic.sandbox.tree import _parents

if TYPE_CHECKING:
    from conftest import Run

both_ids = pytest.mark.parametrize("base", ["reachable", "closed"], indirect=True)

Marked = Callable[[str], list[int]]
PATH = "/usr/local/bin:/usr/bin:/bin"

DAEMON = """
import os, signal, sys, time
for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT): signal.signal(number, signal.SIG_IGN)
for _ in range(3):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            for fd in (0, 1, 2): os.close(fd)
            time.sleep(600)
        os._exit(0)
if "stay" in sys.argv:
    print("up", flush=True)
    time.sleep(600)
"""


def test_daemons_do_not_outlive_a_script_that_ends(run: Run, mark: str, all_marked: Marked) -> None:
    result = run("python", DAEMON, env={"PATH": PATH, "MARK": mark})
    assert result.exit_code == 0
    assert all_marked(mark) == []


@both_ids
def test_daemons_do_not_outlive_the_timeout(run: Run, mark: str, all_marked: Marked) -> None:
    started = time.monotonic()
    result = run("python", DAEMON, args=["stay"], env={"PATH": PATH, "MARK": mark}, timeout=1)
    assert (result.timed_out, result.stopped, result.signal) == (True, False, 9)
    assert result.stdout == "up\n"
    assert time.monotonic() - started < 8
    assert all_marked(mark) == []


def test_a_timeout_asks_before_it_kills(run: Run) -> None:
    script = "trap 'echo tidy; exit 3' TERM; while :; do sleep 0.05; done"
    result = run("bash", script, timeout=0.5, limits=Limits(grace=5))
    assert (result.timed_out, result.exit_code, result.stdout) == (True, 3, "tidy\n")


def test_a_cancelled_script_is_ended_with_its_tree(run: Run, mark: str, all_marked: Marked) -> None:
    result = run(
        "python", DAEMON, args=["stay"], env={"PATH": PATH, "MARK": mark},
        should_stop=lambda: len(all_marked(mark)) >= 4,
    )  # fmt: skip
    assert (result.stopped, result.timed_out) == (True, False)
    assert all_marked(mark) == []


def test_an_error_in_the_worker_ends_the_tree(run: Run, mark: str, all_marked: Marked) -> None:
    class SoftTimeLimit(Exception):
        pass

    def interrupted() -> bool:
        if len(all_marked(mark)) >= 4:
            raise SoftTimeLimit
        return False

    with pytest.raises(SoftTimeLimit):
        run("python", DAEMON, args=["stay"], env={"PATH": PATH, "MARK": mark}, should_stop=interrupted)
    assert all_marked(mark) == []


def test_a_fork_bomb_is_held_and_ended(run: Run, base: Path, mark: str, all_marked: Marked) -> None:
    if os.geteuid() == 0 and not probe(base=base).own_uid:
        pytest.skip("the kernel does not bound the processes of root's own id")
    most = 0

    def count() -> bool:
        nonlocal most
        most = max(most, len(all_marked(mark)))
        return False

    result = run(
        "bash", "bomb() { setsid bash -c : & bomb | bomb & }; while :; do bomb; done 2>/dev/null",
        env={"PATH": PATH, "MARK": mark}, timeout=2, should_stop=count, limits=Limits(processes=60, grace=0.2),
    )  # fmt: skip
    assert result.timed_out or result.exit_code is not None
    assert 10 < most <= 61
    assert all_marked(mark) == []


@both_ids
def test_a_swarm_that_keeps_forking_is_ended(run: Run, mark: str, all_marked: Marked) -> None:
    """Each process forks its successor and ends, so that no pass sees the same ones twice."""
    script = """
import os, signal, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
for _ in range(3):
    if os.fork() == 0:
        os.setsid()
        for _ in range(200_000):
            if os.fork(): os._exit(0)
        os._exit(0)
print("up", flush=True)
signal.pause()
"""
    result = run("python", script, env={"PATH": PATH, "MARK": mark}, timeout=1, limits=Limits(grace=0.1))
    assert result.timed_out
    assert result.stdout == "up\n"
    assert all_marked(mark) == []


def test_folders_that_resist_are_removed(run: Run, base: Path) -> None:
    script = """
import os
print("made", flush=True)
os.mkdir("closed"); open("closed/f", "w").close(); os.mkdir("closed/in"); os.chmod("closed/in", 0); os.chmod("closed", 0)
os.symlink("/etc", "etc"); os.mkfifo("pipe"); open(b"\\xff\\n -rf", "w").close(); open("-", "w").close()
os.mkdir(".removing-0")
for _ in range(3000):
    os.mkdir("deep"); os.chdir("deep")
open("end", "w").close()
"""
    result = run("python", script)  # the watch may end it: it cannot see so deep, nor behind closed folders
    assert (result.stdout, result.stderr) == ("made\n", "")
    assert list(base.iterdir()) == []
    assert Path("/etc/passwd").exists()


WORKER = """
import sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from medic.sandbox import Limits, run_script
run_script(interpreter="python", content=sys.argv[2], args=["stay"], env={"PATH": "/usr/bin:/bin", "MARK": sys.argv[3]},
           stdin=b"", timeout=120, network=False, mode="required", limits=Limits(grace=0.2),
           should_stop=lambda: False, base=Path(sys.argv[4]))
print("returned", flush=True)
"""


class Worker:
    """A worker of its own, with a running script of four processes below it."""

    def __init__(self, base: Path, mark: str, marked: Marked, wait_until: Callable[..., bool]) -> None:
        root = str(Path(__file__).parents[2])
        self.process = subprocess.Popen(
            [sys.executable, "-c", WORKER, root, DAEMON, mark, str(base)], stdout=subprocess.PIPE, text=True
        )
        # The mark also stands in the worker's arguments, not in its environment.
        assert wait_until(lambda: len(marked(mark)) == 4)
        (self.guard,) = self._children(self.process.pid)
        (self.supervisor,) = self._children(self.guard)

    @staticmethod
    def _children(parent: int) -> list[int]:
        return [pid for pid, above in _parents().items() if above == parent]

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def worker(base: Path, mark: str, all_marked: Marked, wait_until: Callable[..., bool]) -> Worker:
    return Worker(base, mark, all_marked, wait_until)


@pytest.mark.parametrize(
    "victims", [("process",), ("guard",), ("supervisor",), ("process", "guard"), ("process", "supervisor")]
)
def test_the_tree_dies_when_a_link_of_its_chain_is_killed(
    worker: Worker,
    base: Path,
    mark: str,
    all_marked: Marked,
    wait_until: Callable[..., bool],
    victims: tuple[str, ...],
) -> None:
    try:
        for victim in victims:
            os.kill(worker.process.pid if victim == "process" else getattr(worker, victim), signal.SIGKILL)
        assert wait_until(lambda: all_marked(mark) == [])
        ours = {worker.guard, worker.supervisor}
        assert wait_until(lambda: not ours & _parents().keys())
        if "process" not in victims:
            assert worker.process.communicate(timeout=20)[0] == "returned\n"
    finally:
        worker.close()
    assert wait_until(lambda: remove_leftovers(base) >= 0 and not list(base.iterdir()))


def test_killing_guard_and_supervisor_at_once_still_kills_the_script_itself(
    worker: Worker, mark: str, all_marked: Marked, wait_until: Callable[..., bool]
) -> None:
    script = next(pid for pid in all_marked(mark) if b"stay" in Path(f"/proc/{pid}/cmdline").read_bytes())
    try:
        os.kill(worker.guard, signal.SIGSTOP)  # so that both die before either acts
        os.kill(worker.supervisor, signal.SIGSTOP)
        os.kill(worker.guard, signal.SIGKILL)
        os.kill(worker.supervisor, signal.SIGKILL)
        assert wait_until(lambda: script not in all_marked(mark))
        assert worker.process.communicate(timeout=30)[0] == "returned\n"
    finally:
        worker.close()
        for pid in all_marked(mark):  # the daemons that the kernel has no leash for
            os.kill(pid, signal.SIGKILL)


def test_a_lost_supervisor_is_reported_as_lost(run: Run, mark: str, all_marked: Marked) -> None:
    def kill() -> None:
        deadline = time.monotonic() + 15
        while time.monotonic() < deadline:
            if len(found := all_marked(mark)) >= 1 and (parent := _parents().get(found[0])):
                os.kill(parent, signal.SIGKILL)
                return
            waiting.wait(0.02)

    waiting = threading.Event()
    thread = threading.Thread(target=kill)
    thread.start()
    result = run("bash", "sleep 60 & wait", env={"PATH": PATH, "MARK": mark})
    thread.join()
    assert (result.lost, result.exit_code, result.signal) == (True, None, None)
    assert all_marked(mark) == []
