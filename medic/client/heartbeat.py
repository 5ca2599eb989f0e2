"""One signal, as it is sent to ``POST /v1/heartbeats`` and as it is kept on disk."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from medic.times import format_time, parse_time

MESSAGE_BYTES = 10_000
"""The API keeps no more of a message."""
MAX_METRICS = 50
_EXIT_CODES = range(-(2**15), 2**15)


def new_id() -> str:
    """An id that nobody else has: a signal's, so that sending it twice stores it once, or a run's."""
    return os.urandom(16).hex()


def clock() -> datetime:
    """Now, in UTC."""
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """A signal of a service.  ``status`` is ``ok``, ``start``, ``complete``, ``fail`` or ``log``."""

    service: str
    status: str
    occurred_at: datetime
    run_id: str | None = None
    duration_ms: int | None = None
    exit_code: int | None = None
    message: str | None = None
    metrics: Mapping[str, float] | None = None
    id: str = field(default_factory=new_id)

    def body(self, *, sent_at: datetime) -> dict[str, Any]:
        """The request's body.

        Medic takes ``sent_at - occurred_at`` as the age.  A clock that was set back in between would make it
        negative, and the signal one of the future, which is refused; so it is never less than nothing.
        """
        return self.record() | {"sent_at": format_time(max(sent_at, self.occurred_at))}

    def record(self) -> dict[str, Any]:
        """The signal as JSON, without what is not known."""
        known: dict[str, Any] = {
            "service": self.service,
            "status": self.status,
            "occurred_at": format_time(self.occurred_at),
            "run_id": self.run_id,
            "duration_ms": self.duration_ms,
            "exit_code": self.exit_code if self.exit_code in _EXIT_CODES else None,
            "message": last_of(self.message) if self.message else None,
            "metrics": dict(self.metrics) if self.metrics else None,
            "id": self.id,
        }
        return {name: value for name, value in known.items() if value is not None}

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Heartbeat:
        """The signal that `record` wrote.

        :raises Exception: of any kind when the file holds something else; it is a file's content.
        """
        return cls(**{**record, "occurred_at": parse_time(record["occurred_at"])})


def last_of(text: str | bytes) -> str:
    """The end of a text or of a program's output, no longer than Medic keeps.

    Bytes that are no UTF-8 become U+FFFD, as does NUL, which PostgreSQL cannot hold.
    """
    plain = text if isinstance(text, str) else text.decode("utf-8", "replace")
    encoded = plain.replace("\0", "\ufffd").encode("utf-8", "replace")
    return encoded[-MESSAGE_BYTES:].decode("utf-8", "ignore")


def usable_metric(value: object) -> float | None:
    """A number that JSON and Medic can hold, or nothing."""
    try:
        number = float(value)  # type: ignore[arg-type]  # whatever the program gave us
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None
