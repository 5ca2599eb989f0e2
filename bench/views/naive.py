"""Medic's API but for one thing: each heartbeat is committed by itself, in its own request's thread."""

from __future__ import annotations

from collections.abc import Sequence

from medic import heartbeats
from medic.db import in_transaction
from medic.group_commit import GroupCommit
from medic.heartbeats import Signal, Written


def write_alone(self: GroupCommit, signals: Sequence[Signal]) -> list[Written]:
    """In the place of `GroupCommit.write`: same statement, a transaction per call."""
    return in_transaction(self._engine, lambda session: heartbeats.write(session, signals))


GroupCommit.write = write_alone  # type: ignore[method-assign]

from medic_api.wsgi import app  # noqa: E402 - the application is made with the change above in place

__all__ = ["app"]
