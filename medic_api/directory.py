"""The services that this process heard of lately, as ingest needs them."""

from __future__ import annotations

import threading
import time

from sqlalchemy import Engine

from medic import heartbeats
from medic.db import in_transaction
from medic.heartbeats import Watched

CACHE_SECONDS = 5.0
CACHE_SIZE = 200_000


class Directory:
    """Services by name, at most `CACHE_SECONDS` old.

    A policy that changed meanwhile is harmless: its version no longer fits the hot row, and the sweep decides.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._known: dict[str, tuple[float, Watched]] = {}
        self._lock = threading.Lock()

    def find(self, name: str) -> Watched | None:
        """The service; None when there is none, which is never remembered."""
        at = time.monotonic()
        held = self._known.get(name)
        if held is not None and at - held[0] < CACHE_SECONDS:
            return held[1]
        found = in_transaction(self._engine, lambda session: heartbeats.watched(session, [name])).get(name)
        with self._lock:
            if found is None:
                self._known.pop(name, None)
            else:
                if len(self._known) >= CACHE_SIZE:
                    self._known.clear()
                self._known[name] = (at, found)
        return found

    def forget(self, name: str) -> None:
        with self._lock:
            self._known.pop(name, None)
