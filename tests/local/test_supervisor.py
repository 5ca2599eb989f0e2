"""The supervisor over real child processes."""

from __future__ import annotations

import io
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from medic.errors import Unavailable
from medic.local.process import Process
from medic.local.program import Program
from medic.local.stream import LogStream
from medic.local.supervisor import Supervisor

SLEEPS = "import time; print('up', flush=True); time.sleep(60)"
STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"


def python(name: str, code: str, **rest: object) -> Program:
    return Program(name=name, argv=(sys.executable, "-c", code), env=dict(os.environ), **rest)  # type: ignore[arg-type]


def wait_for(true: Callable[[], object], within: float = 10.0) -> None:
    deadline = time.monotonic() + within
    while not true():
        assert time.monotonic() < deadline, "it did not become true in time"
        time.sleep(0.01)


def gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.fixture
def out() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def supervisor(out: io.StringIO) -> Iterator[Supervisor]:
    hurry = threading.Event()
    hurry.set()
    supervisor = Supervisor(LogStream(out))
    yield supervisor
    supervisor.stop(hurry=hurry)


UP = re.compile("^up$")


def test_each_line_of_a_program_names_its_component(supervisor: Supervisor, out: io.StringIO) -> None:
    supervisor.start(python("worker", "import sys; print('one'); print('two', file=sys.stderr)"))
    wait_for(lambda: supervisor.process("worker").exit_code() is not None)
    assert sorted(out.getvalue().splitlines()) == ["worker    | one", "worker    | two"]


def test_a_program_is_ready_when_it_says_so(supervisor: Supervisor) -> None:
    seen: list[str] = []
    supervisor.start(python("a", SLEEPS, announces=UP))
    supervisor.await_ready(["a"], within=10, on_ready=lambda name, _: seen.append(name))
    assert seen == ["a"]


def test_a_program_that_never_gets_ready_is_named(supervisor: Supervisor) -> None:
    supervisor.start(python("slow", SLEEPS, announces=re.compile("never")))
    with pytest.raises(Unavailable, match=r"not ready after 0 s: slow"):
        supervisor.await_ready(["slow"], within=0.3)


def test_a_program_that_dies_while_it_starts_is_quoted(supervisor: Supervisor) -> None:
    supervisor.start(python("broken", "import sys; sys.exit('no such thing')", announces=UP))
    with pytest.raises(Unavailable, match=r"broken stopped while it started \(exit 1\)[\s\S]*no such thing"):
        supervisor.await_ready(["broken"], within=10)


def test_a_program_that_cannot_be_executed_is_reported(supervisor: Supervisor, tmp_path: Path) -> None:
    supervisor.start(Program(name="none", argv=(str(tmp_path / "none"),), env={}, announces=UP))
    with pytest.raises(Unavailable, match=r"exit 127[\s\S]*cannot start"):
        supervisor.await_ready(["none"], within=10)


def test_what_exits_is_started_again_and_waits_longer_each_time(
    supervisor: Supervisor, out: io.StringIO
) -> None:
    first = supervisor.start(python("crash", "raise SystemExit(3)"))
    until = threading.Event()

    def second_crash() -> bool:
        supervisor.tick()
        return "again in 2 s" in out.getvalue()

    wait_for(second_crash)
    until.set()
    assert "crash     | stopped (exit 3); starting it again in 1 s" in out.getvalue()
    assert supervisor.process("crash").pid != first.pid


def test_programs_stop_stage_by_stage(supervisor: Supervisor, tmp_path: Path) -> None:
    book = tmp_path / "order"
    code = (
        "import signal, sys, time\n"
        "def stop(*_):\n"
        "    time.sleep({pause})\n"
        f"    open({str(book)!r}, 'a').write('{{name}} ')\n"
        "    sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, stop); print('up', flush=True); time.sleep(60)"
    )
    # The first to stop is the slowest, so that an order by chance would be another one.
    for name, stage, pause in (("servers", 9, 0), ("workers", 1, 0.2), ("beat", 0, 0.4)):
        supervisor.start(python(name, code.format(name=name, pause=pause), stage=stage, announces=UP))
    supervisor.await_ready(["servers", "workers", "beat"], within=10)
    supervisor.stop()
    assert book.read_text().split() == ["beat", "workers", "servers"]


def test_a_program_that_does_not_stop_in_time_is_killed(supervisor: Supervisor, out: io.StringIO) -> None:
    process = supervisor.start(python("deaf", STUBBORN, announces=UP, stop_within=0.2))
    supervisor.await_ready(["deaf"], within=10)
    supervisor.stop()
    assert process.exit_code() == -signal.SIGKILL
    assert "deaf      | did not stop in time; killing it" in out.getvalue()


def test_a_hurry_kills_without_waiting(supervisor: Supervisor) -> None:
    process = supervisor.start(python("deaf", STUBBORN, announces=UP, stop_within=60))
    supervisor.await_ready(["deaf"], within=10)
    hurry = threading.Event()
    began = time.monotonic()
    timer = threading.Timer(0.1, hurry.set)
    timer.start()
    supervisor.stop(hurry=hurry)
    timer.join()
    assert process.exit_code() == -signal.SIGKILL
    assert time.monotonic() - began < 5


def test_what_a_dead_program_leaves_in_its_group_is_killed(supervisor: Supervisor) -> None:
    code = (
        "import subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'],\n"
        "                         stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)\n"
        "print(child.pid, flush=True)"
    )
    process = supervisor.start(python("parent", code))
    wait_for(lambda: process.exit_code() is not None)
    wait_for(lambda: process.last_lines)
    wait_for(lambda: gone(int(process.last_lines[0])))


def test_a_program_gets_no_signal_of_our_terminal(supervisor: Supervisor) -> None:
    process = supervisor.start(python("a", SLEEPS))
    wait_for(lambda: os.getpgid(process.pid) == process.pid)
    assert os.getpgid(process.pid) != os.getpgrp()


def test_a_closed_terminal_stops_nothing(tmp_path: Path) -> None:
    out = (tmp_path / "out").open("w")
    stream = LogStream(out)
    out.close()
    stream.say("a", "line")
    process = Process(python("a", "print('x'); print('y')"), stream)
    wait_for(lambda: process.exit_code() == 0)
    assert list(process.last_lines) == ["x", "y"]


@pytest.mark.skipif(sys.platform != "linux", reason="the parent-death signal is Linux's")
def test_nothing_outlives_a_supervisor_that_is_killed() -> None:
    code = (
        "import os, sys\n"
        "from medic.local.process import Process\n"
        "from medic.local.program import Program\n"
        "from medic.local.stream import LogStream\n"
        f"argv = (sys.executable, '-c', {SLEEPS!r})\n"
        "process = Process(Program(name='a', argv=argv, env={}), LogStream(sys.stdout))\n"
        "print(process.pid, flush=True)\n"
        "import time; time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        lines = {parent.stdout.readline().strip(), parent.stdout.readline().strip()}
        (pid,) = (int(line) for line in lines if line.isdigit())
        assert "a         | up" in lines  # it runs: the signal is armed before the program starts
        parent.kill()
    wait_for(lambda: gone(pid))
