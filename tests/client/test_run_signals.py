"""Signals that `medic run` gets reach the job, once, under cron and on a terminal."""

from __future__ import annotations

import os
import pty
import select
import signal
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

from tests.client.conftest import Bench
from tests.waiting import eventually

COUNTS = """
import os, signal, sys, time
counts = {}
def heard(number, _frame):
    counts[number] = counts.get(number, 0) + 1
    open(sys.argv[1], "a").write(f"{number}\\n")
for number in (1, 2, 3, 10, 12, 15):
    signal.signal(number, heard)
open(sys.argv[2], "w").write(f"{os.getpid()} {os.getpgrp()}")
while not os.path.exists(sys.argv[3]):
    time.sleep(0.02)
sys.exit(9)
"""


class Listener:
    """A job that writes down the signals that it gets."""

    def __init__(self, folder: Path) -> None:
        self.heard, self.ready, self.end = folder / "heard", folder / "ready", folder / "end"
        self.command = [
            sys.executable,
            "-c",
            COUNTS,
            str(self.heard),
            str(self.ready),
            str(self.end),
        ]

    def numbers(self) -> list[int]:
        return [int(line) for line in self.heard.read_text().split()] if self.heard.exists() else []

    def wait(self) -> tuple[int, int]:
        text = eventually(lambda: self.ready.exists() and self.ready.read_text())
        pid, group = str(text).split()
        return int(pid), int(group)


def test_each_signal_is_passed_on_and_the_job_decides(bench: Bench) -> None:
    listener = Listener(bench.folder)
    job = bench.start("--service", "s", "--", *listener.command)
    listener.wait()
    sent = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2]
    for number in sent:
        before = len(listener.numbers())
        job.send_signal(number)
        eventually(lambda before=before: len(listener.numbers()) > before)  # type: ignore[misc]
    listener.end.touch()
    assert job.wait(timeout=20) == 9
    assert listener.numbers() == [int(number) for number in sent]


def test_the_children_of_the_job_get_it_too(bench: Bench) -> None:
    listener = Listener(bench.folder)
    job = bench.start(
        "--service", "s", "--", "sh", "-c", 'trap : TERM; "$@" & wait; wait', "sh", *listener.command
    )
    listener.wait()
    job.terminate()
    eventually(lambda: listener.numbers() == [signal.SIGTERM])
    listener.end.touch()
    job.wait(timeout=20)


def test_an_ended_job_is_reported_with_the_signal_that_ended_it(bench: Bench) -> None:
    job = bench.start("--service", "s", "--", "sh", "-c", "echo up; sleep 300")
    assert job.stdout is not None
    job.stdout.readline()
    job.terminate()
    assert job.wait(timeout=20) == 128 + signal.SIGTERM
    assert bench.signals("fail")[0]["exit_code"] == 128 + signal.SIGTERM


@pytest.mark.parametrize("pressed", [True, False])
def test_on_a_terminal_the_job_hears_each_signal_once(bench: Bench, pressed: bool) -> None:
    listener = Listener(bench.folder)
    pid, terminal = pty.fork()
    if pid == 0:
        os.execve(
            sys.executable,
            [sys.executable, "-m", "medic", "run", "--service", "s", "--", *listener.command],
            bench.environ,
        )
    try:
        job, group = listener.wait()
        assert group == pid != job  # it shares the group of the terminal
        if pressed:
            os.write(terminal, b"\x03")
        else:
            os.kill(pid, signal.SIGINT)
        eventually(lambda: listener.numbers() == [signal.SIGINT])
        os.kill(pid, signal.SIGUSR1)  # comes behind a second SIGINT, if there were one
        eventually(lambda: signal.SIGUSR1 in listener.numbers())
        assert listener.numbers() == [signal.SIGINT, signal.SIGUSR1]
    finally:
        listener.end.touch()
        deadline = time.monotonic() + 20
        while (ended := os.waitpid(pid, os.WNOHANG)) == (0, 0) and time.monotonic() < deadline:
            _read_what_there_is(terminal)
        os.close(terminal)
    assert os.waitstatus_to_exitcode(ended[1]) == 9


def _read_what_there_is(terminal: int) -> None:
    if select.select([terminal], [], [], 0.05)[0]:
        with suppress(OSError):  # EIO: the other end is closed
            os.read(terminal, 1024)


def test_a_signal_while_sending_ends_the_waiting_and_keeps_the_exit_code(bench: Bench) -> None:
    hold = threading.Event()
    bench.recorder.answer = lambda _: (hold.wait(30), (202, b"{}"))[1]
    try:
        job = bench.start("--service", "s", "--patience", "60s", "--", "sh", "-c", "exit 5")
        eventually(lambda: bench.signals("fail"))
        began = time.monotonic()
        job.terminate()
        assert job.wait(timeout=20) == 5
        assert time.monotonic() - began < 2.5  # less than one try takes
    finally:
        hold.set()
    assert {path.name.split("-")[1].removesuffix(".json") for path in bench.waiting()} >= {
        bench.signals("fail")[0]["id"]
    }


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_stop_and_a_continue_reach_the_job_and_hold_us_too(bench: Bench) -> None:
    def state(pid: int) -> str:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0]

    listener = Listener(bench.folder)
    wrapper = bench.start("--service", "s", "--", *listener.command)
    pid, _ = listener.wait()
    wrapper.send_signal(signal.SIGTSTP)
    eventually(lambda: (state(pid), state(wrapper.pid)) == ("T", "T"))
    wrapper.send_signal(signal.SIGCONT)
    eventually(lambda: "T" not in (state(pid), state(wrapper.pid)))
    listener.end.touch()
    assert wrapper.wait(timeout=20) == 9
