"""Signals that wait on disk until Medic can take them.

One file for each, named by its time and its id, written whole or not at all.  Any number of runs may put
signals into one spool; one at a time empties it.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from medic.client.heartbeat import Heartbeat

MAX_FILES = 5_000
MAX_BYTES = 64 * 1_048_576
MAX_REJECTED = 1_000
MAX_AGE = timedelta(days=30)
_DRAFT_AGE = timedelta(hours=1)
"""A draft this old was left by a process that was killed."""


@dataclass(frozen=True, slots=True)
class Spooled:
    """A signal, and the server that it is for (None: none was known then)."""

    heartbeat: Heartbeat
    url: str | None


@dataclass(frozen=True, slots=True)
class Dropped:
    """Signals that were lost to the bounds of a spool: how many, whose (the first few), and when they happened."""

    count: int = 0
    services: tuple[str, ...] = ()
    first: datetime | None = None
    last: datetime | None = None


def default_folder(environ: Mapping[str, str]) -> Path | None:
    """MEDIC_SPOOL_DIR, else ``medic/spool`` where the XDG base directory specification keeps state."""
    if named := environ.get("MEDIC_SPOOL_DIR"):
        return Path(named)
    state = environ.get("XDG_STATE_HOME", "")
    if not state.startswith("/"):  # the specification: a relative path is to be ignored
        try:
            state = str(Path.home() / ".local" / "state")
        except RuntimeError:
            return None
    return Path(state) / "medic" / "spool"


class Spool:
    """A folder of waiting signals; ``rejected/`` in it holds those that Medic will never take, with why."""

    def __init__(
        self,
        folder: Path,
        *,
        max_files: int = MAX_FILES,
        max_bytes: int = MAX_BYTES,
        max_age: timedelta = MAX_AGE,
    ) -> None:
        self.folder = folder
        self.rejected = folder / "rejected"
        self._max_files = max_files
        self._max_bytes = max_bytes
        self._max_age = max_age

    def put(self, heartbeat: Heartbeat, url: str | None) -> str:
        """Keep a signal; the same one twice is kept once.

        :returns: the file's name.
        :raises OSError: when it cannot be written.
        """
        name = _name_of(heartbeat)
        _write(self.folder, name, {"url": url, "heartbeat": heartbeat.record()})
        return name

    def waiting(self) -> list[str]:
        """The names of the files that wait, oldest first."""
        return _names(self.folder)

    def waiting_since(self) -> datetime | None:
        """When the oldest of them happened."""
        names = self.waiting()
        return _time_of(names[0]) if names else None

    @contextmanager
    def sole_sender(self) -> Iterator[bool]:
        """Be the one who empties the spool; False when somebody else is, or when there is no spool."""
        try:
            held = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:
            yield False
            return
        _HELD.add(held)
        try:
            is_sole = True
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                is_sole = False
            except OSError:
                pass  # a file system without locks: the signals' ids make a second sender harmless
            yield is_sole
        finally:
            if held in _HELD:  # else this is a forked child, which closed it
                _HELD.discard(held)
                with suppress(OSError):
                    fcntl.flock(held, fcntl.LOCK_UN)  # in a child's copy, too, that is not closed yet
                os.close(held)

    def read(self, name: str) -> Spooled | None:
        """What a file holds; None when it is gone, or damaged, which sets it aside."""
        try:
            content = (self.folder / name).read_bytes()
        except OSError:
            return None
        try:
            found = json.loads(content)
            return Spooled(Heartbeat.from_record(found["heartbeat"]), found["url"])
        except Exception:  # noqa: BLE001 - whatever a damaged file brings
            # Out of the way, but not thrown away: somebody may want to know what it was.
            with suppress(OSError):
                self.rejected.mkdir(mode=0o700, exist_ok=True)
                (self.folder / name).rename(self.rejected / name)
            return None

    def remove(self, name: str) -> None:
        """It was sent."""
        with suppress(OSError):
            (self.folder / name).unlink()

    def reject(self, heartbeat: Heartbeat, url: str | None, *, status: int | None, answer: str) -> None:
        """Set a signal aside for good, with Medic's answer.

        :raises OSError: when it cannot be written.
        """
        name = _name_of(heartbeat)
        content = {"url": url, "heartbeat": heartbeat.record(), "status": status, "answer": answer}
        _write(self.rejected, name, content)
        self.remove(name)
        for old in _names(self.rejected)[:-MAX_REJECTED]:
            with suppress(OSError):
                (self.rejected / old).unlink()

    def trim(self, now: datetime) -> Dropped:
        """Drop what is too old, and the oldest of what is too much; returns what was lost."""
        waiting = self._sizes()
        left, size = len(waiting), sum(size for _, size in waiting)
        lost: list[tuple[str, str | None]] = []
        for name, bytes_ in waiting:
            if left <= self._max_files and size <= self._max_bytes and now - _time_of(name) <= self._max_age:
                break  # the oldest come first
            left, size = left - 1, size - bytes_
            spooled = self.read(name) if len(lost) < _TOLD else None
            with suppress(OSError):  # somebody else dropped it, or sent it
                (self.folder / name).unlink()
                lost.append((name, spooled.heartbeat.service if spooled else None))
        self._tidy(now)
        if not lost:
            return Dropped()
        services = dict.fromkeys(service for _, service in lost if service)
        return Dropped(len(lost), tuple(services), _time_of(lost[0][0]), _time_of(lost[-1][0]))

    def _tidy(self, now: datetime) -> None:
        for name in _names(self.rejected):
            if now - _time_of(name) > self._max_age:
                with suppress(OSError):
                    (self.rejected / name).unlink()
        for draft in self.folder.glob(".draft-*"):
            with suppress(OSError):
                if now.timestamp() - draft.stat().st_mtime > _DRAFT_AGE.total_seconds():
                    draft.unlink()

    def _sizes(self) -> list[tuple[str, int]]:
        sizes = []
        for name in self.waiting():
            with suppress(OSError):
                sizes.append((name, (self.folder / name).stat().st_size))
        return sizes


_TOLD = 100
"""Of so many dropped signals at most the services are looked up."""
_HELD: set[int] = set()


def _let_go() -> None:
    """A lock is the open file's: a child that kept our copy would hold it for as long as it lives."""
    for held in list(_HELD):
        with suppress(OSError):
            os.close(held)
    _HELD.clear()


os.register_at_fork(after_in_child=_let_go)


def _name_of(heartbeat: Heartbeat) -> str:
    return f"{int(heartbeat.occurred_at.timestamp() * 1_000_000):020d}-{heartbeat.id}.json"


def id_of(name: str) -> str:
    """The id of the signal in a file of this name."""
    return name[21:].removesuffix(".json")


def _time_of(name: str) -> datetime:
    try:
        return datetime.fromtimestamp(int(name[:20]) / 1_000_000, UTC)
    except (ValueError, OverflowError, OSError):
        return datetime.fromtimestamp(0, UTC)


def _names(folder: Path) -> list[str]:
    try:
        return sorted(name for name in os.listdir(folder) if name.endswith(".json") and name[0] != ".")  # noqa: PTH208
    except OSError:
        return []


def _write(folder: Path, name: str, content: Mapping[str, Any]) -> None:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = folder / f".draft-{os.getpid()}-{os.urandom(8).hex()}"
    try:
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(json.dumps(content).encode())
            file.flush()
            os.fsync(file.fileno())
        draft.replace(folder / name)
    except BaseException:
        with suppress(OSError):
            draft.unlink()
        raise
    with suppress(OSError):  # some file systems cannot; the content itself is safe
        place = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(place)
        finally:
            os.close(place)
