"""Processes under measurement: started, waited for, weighed, ended."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

STOP_WITHIN = 20.0


@dataclass(slots=True)
class Process:
    """A running process and its children."""

    popen: subprocess.Popen[bytes]
    log: Path

    def tree(self) -> list[psutil.Process]:
        """It and all that it started."""
        with suppress(psutil.NoSuchProcess):
            top = psutil.Process(self.popen.pid)
            return [top, *top.children(recursive=True)]
        return []

    def resident_mb(self) -> list[float]:
        """What each process of the tree holds in memory, the greatest first."""
        sizes = []
        for process in self.tree():
            with suppress(psutil.NoSuchProcess):
                sizes.append(process.memory_info().rss / 1e6)
        return sorted(sizes, reverse=True)

    def cpu_s(self) -> float:
        """CPU seconds of the tree so far."""
        total = 0.0
        for process in self.tree():
            with suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                total += times.user + times.system
        return total

    def await_(self, condition: Callable[[], bool], *, within: float = 60.0) -> None:
        """Wait for it.

        :raises RuntimeError: when the process ended, or the time is over; with the end of its log.
        """
        deadline = time.monotonic() + within
        while not condition():
            if self.popen.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"A process did not get ready:\n{self.log.read_text()[-800:]}")
            time.sleep(0.02)

    def stop(self) -> None:
        """SIGTERM, and SIGKILL to the group of one that does not end."""
        if self.popen.poll() is None:
            self.popen.terminate()
            with suppress(subprocess.TimeoutExpired):
                self.popen.wait(STOP_WITHIN)
        with suppress(ProcessLookupError):
            os.killpg(self.popen.pid, signal.SIGKILL)
        self.popen.wait()


def start(command: list[str], *, environ: dict[str, str], log: Path, folder: Path) -> Process:
    """Start a command as the leader of a process group."""
    with log.open("ab") as out:
        popen = subprocess.Popen(
            command, env=environ, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, cwd=folder,
            start_new_session=True,
        )  # fmt: skip
    return Process(popen, log)


def free_port() -> int:
    """A port of loopback that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def answers(port: int, path: str) -> bool:
    """Whether the server answers a GET there, with whatever status."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        connection.getresponse().read()
    except (OSError, http.client.HTTPException):
        return False
    else:
        return True
    finally:
        connection.close()


def status_of(port: int, method: str, path: str, *, body: str, key: str) -> int:
    """The status of one request."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
        connection.request(method, path, body=body, headers=headers)
        return connection.getresponse().status
    finally:
        connection.close()
