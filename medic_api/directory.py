"""The services that this process heard of lately, as ingest needs them."""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Hashable
from typing import Generic, TypeVar
from uuid import UUID

from sqlalchemy import Engine

from medic import heartbeats, pings
from medic.db import in_transaction
from medic.heartbeats import Watched
from medic.pings import Behind
from medic.teams import ping_key_digest

CACHE_SECONDS = 5.0
KNOWN_SECONDS = 3_600.0
"""What a write tells to be outdated is forgotten at once, so services may be known for longer."""
CACHE_SIZE = 200_000

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class _Recent(Generic[Key, Value]):
    """What was found lately; what was not found is never remembered."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._held: dict[Key, tuple[float, Value]] = {}
        self._lock = threading.Lock()

    def get(self, key: Key) -> Value | None:
        held = self._held.get(key)
        return held[1] if held is not None and time.monotonic() - held[0] < self._seconds else None

    def keep(self, key: Key, value: Value) -> None:
        with self._lock:
            if len(self._held) >= CACHE_SIZE:
                self._held.clear()
            self._held[key] = (time.monotonic(), value)

    def forget(self, key: Key) -> None:
        with self._lock:
            self._held.pop(key, None)


class Directory:
    """Services by name, at most `KNOWN_SECONDS` old.

    A policy that changed meanwhile is harmless: its version no longer fits the hot row, the sweep decides, and the
    write says so (`Written.is_current`), whereupon it is forgotten here.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._known: _Recent[str, Watched] = _Recent(KNOWN_SECONDS)

    def find(self, name: str) -> Watched | None:
        """The service; None when there is none."""
        return self._known.get(name) or self.find_all([name]).get(name)

    def find_all(self, names: Collection[str]) -> dict[str, Watched]:
        """Those of the services that there are, in one query at the most."""
        found = {name: held for name in names if (held := self._known.get(name)) is not None}
        missing = [name for name in names if name not in found]
        if missing:
            read = in_transaction(self._engine, lambda session: heartbeats.watched(session, missing))
            for name, service in read.items():
                self._known.keep(name, service)
            found |= read
        return found

    def forget(self, name: str) -> None:
        self._known.forget(name)


class PingDirectory:
    """Services behind ping URLs.  A UUID is for good; a ping key that was replaced ends within `CACHE_SECONDS`."""

    def __init__(self, engine: Engine, pepper: bytes) -> None:
        self._engine = engine
        self._pepper = pepper
        self._by_uuid: _Recent[UUID, Watched] = _Recent(KNOWN_SECONDS)
        self._by_slug: _Recent[tuple[bytes, str], Behind] = _Recent(CACHE_SECONDS)

    def by_uuid(self, uuid: UUID) -> Watched | None:
        held = self._by_uuid.get(uuid)
        if held is None:
            held = in_transaction(self._engine, lambda session: pings.by_uuid(session, uuid))
            if held is not None:
                self._by_uuid.keep(uuid, held)
        return held

    def by_slug(self, ping_key: str, slug: str) -> Behind | None:
        """The team of the key, and its service of that name if it has one; None for a key of nobody."""
        digest = ping_key_digest(self._pepper, ping_key)
        held = self._by_slug.get((digest, slug))
        if held is None:
            held = in_transaction(self._engine, lambda session: pings.by_slug(session, digest, slug))
            if held is not None and held.service is not None:
                self._by_slug.keep((digest, slug), held)
        return held

    def forget(self, service: UUID | tuple[str, str]) -> None:
        """It is gone: its UUID, or its ping key and slug."""
        if isinstance(service, UUID):
            self._by_uuid.forget(service)
        else:
            self._by_slug.forget((ping_key_digest(self._pepper, service[0]), service[1]))
