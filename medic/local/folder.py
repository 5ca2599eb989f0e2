"""The data folder of a local stack: where things lie in it, its lock, and where its sockets can be."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import re
import stat
import tempfile
from contextlib import suppress
from pathlib import Path

from medic.errors import Conflict, Misconfigured

_SOCKET_LIMIT = 103
"""Bytes of a socket's path: 107 on Linux (unix(7)), 103 on macOS."""
_LONGEST_SOCKET = "/.s.PGSQL.5432"
_PLAIN = re.compile(r"[A-Za-z0-9/._-]+", re.ASCII)


class DataFolder:
    """A folder that is ours alone, for as long as it is locked.

    ::

        postgres/ valkey/   the servers' data       sockets/  their sockets (0700)
        keys/               the keys that Medic made  log/    the servers' logs
        run/                liveness files, Flower's memory
        admin.key  client.json                        for the CLI
        medic.lock          who runs on it
    """

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()
        self.postgres = self.path / "postgres"
        self.valkey = self.path / "valkey"
        self.keys = self.path / "keys"
        self.log = self.path / "log"
        self.run = self.path / "run"
        self.admin_key = self.path / "admin.key"
        self.client = self.path / "client.json"
        self._lock: int | None = None

    def open(self) -> None:
        """Make the folder where it is missing, and lock it.

        :raises Misconfigured: when it cannot be made or written.
        :raises Conflict: when another `medic up` runs on it; names its process.
        """
        try:
            if not self.path.exists():
                self.path.mkdir(parents=True, mode=0o700)
            if not (ignore := self.path / ".gitignore").exists():
                ignore.write_text("*\n", encoding="ascii")  # it holds keys
            lock = os.open(self.path / "medic.lock", os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise self._refused(error) from None
        try:
            self._take(lock)
            for part in (self.valkey, self.log, self.run):
                part.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            os.close(lock)
            raise self._refused(error) from None
        except Conflict:
            os.close(lock)
            raise
        self._lock = lock

    def close(self) -> None:
        """Give the folder free."""
        if self._lock is not None:
            with suppress(OSError):
                os.ftruncate(self._lock, 0)
            os.close(self._lock)
            self._lock = None

    def sockets(self) -> Path:
        """The folder for the servers' sockets, made with mode 0700.

        In the data folder where its path is short and plain enough; else under the temporary folder,
        named by a hash of the data folder, so that a later start finds the same one.

        :raises Misconfigured: when somebody else sits on that name.
        """
        inside = self.path / "sockets"
        if _fits(inside):
            with suppress(FileExistsError):
                inside.mkdir(mode=0o700)
            return inside
        name = f"medic-{os.geteuid()}-{hashlib.sha256(os.fsencode(self.path)).hexdigest()[:16]}"
        root = Path(tempfile.gettempdir())
        outside = root / name if _fits(root / name) else Path("/tmp") / name  # noqa: S108 - checked below
        with suppress(FileExistsError):
            outside.mkdir(mode=0o700)
        found = outside.lstat()
        owners = {os.geteuid()}
        if self.postgres.exists():  # under root, the user that PostgreSQL ran as the last time
            owners.add(self.postgres.stat().st_uid)
        if (
            not stat.S_ISDIR(found.st_mode)
            or found.st_uid not in owners
            or stat.S_IMODE(found.st_mode) & 0o077
        ):
            raise Misconfigured(
                f"{outside} is in the way of the servers' sockets: remove it, and start again."
            )
        return outside

    def _take(self, lock: int) -> None:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            who = os.pread(lock, 32, 0).decode("ascii", "replace").strip() or "unknown"
            raise Conflict(
                f"Another Medic runs on {self.path} (process {who}): "
                "use that one, stop it first, or choose another folder with --data-dir."
            ) from None
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode("ascii"), 0)

    def _refused(self, error: OSError) -> Misconfigured:
        if error.errno in {errno.ENOTDIR, errno.EEXIST}:
            return Misconfigured(f"{self.path} is not a folder: choose another with --data-dir.")
        return Misconfigured(
            f"The data folder {self.path} cannot be written ({error.strerror}): "
            "make it yours (chown, chmod), or choose another with --data-dir."
        )


def _fits(folder: Path) -> bool:
    # PostgreSQL reads its socket folders as a list, Celery its broker as a URL: plain names only.
    size = len(os.fsencode(folder)) + len(_LONGEST_SOCKET)
    return size <= _SOCKET_LIMIT and _PLAIN.fullmatch(str(folder)) is not None
