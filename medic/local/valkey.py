"""The embedded Valkey: broker and limiter on one socket, every write in an append-only file."""

from __future__ import annotations

import os
import signal
import socket

from medic.local.binaries import valkey_server
from medic.local.folder import DataFolder
from medic.local.leftovers import MARK
from medic.local.program import Program

STAGE = 80


class Valkey:
    """Valkey on a data folder that is open and locked."""

    def __init__(self, folder: DataFolder) -> None:
        self._folder = folder
        self._socket = str(folder.sockets() / "valkey.sock")

    @property
    def url(self) -> str:
        """The URL in Celery's form, which `REDIS_URL` carries."""
        return f"redis+socket://{self._socket}?virtual_host=0"

    @property
    def client_url(self) -> str:
        """The URL in the form of the plain client (``redis.from_url``)."""
        return f"unix://{self._socket}?db=0"

    def program(self) -> Program:
        """How the server is run."""
        settings = {
            "port": "0",
            "unixsocket": self._socket,
            "unixsocketperm": "700",
            "dir": str(self._folder.valkey),
            "appendonly": "yes",
            "appendfsync": "everysec",
            "save": "",
            # A queue that drops messages when memory is short would only hide the trouble.
            "maxmemory-policy": "noeviction",
            "daemonize": "no",
            "loglevel": "warning",
        }
        options = [part for key, value in settings.items() for part in (f"--{key}", value)]
        return Program(
            name="valkey",
            argv=(str(valkey_server()), *options),
            env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", MARK: str(self._folder.path)},
            stage=STAGE,
            stop_signal=signal.SIGTERM,
            stop_within=10.0,
            orphan_signal=signal.SIGTERM,
            log=self._folder.log / "valkey.log",
            probe=self._answers,
        )

    def _answers(self) -> bool:
        """Whether it answers PING; while it reads its file it says LOADING."""
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(1.0)
            try:
                client.connect(self._socket)
                client.sendall(b"PING\r\n")
                return client.recv(64).startswith(b"+PONG")
            except OSError:
                return False
