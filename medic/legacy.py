"""The original's names and what it called a service."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

from sqlalchemy import text
from sqlalchemy.orm import Session

from medic.heartbeats import Watched

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,127}")
_RESERVED = frozenset({"batch", "start", "complete", "fail", "log"})
_OTHER = re.compile(r"[^a-z0-9._-]+")
_KEPT, _DIGITS = 117, 10


@dataclass(frozen=True, slots=True)
class Known:
    """A service as the original's routes need it; ``called`` is its name there."""

    watched: Watched
    called: str
    is_active: bool
    max_runtime_s: int | None


def fold(original: str) -> str:
    """Medic's name for a name of the original, the same each time and for each spelling of its case.

    It is the name in lower case where that is a name here.  Else whatever does not fit becomes ``-``, and the first
    ten hexadecimal digits of the lower-case name's SHA-256 follow, so that two names stay two:
    ``Nightly Backup`` is ``nightly-backup-`` and its ten digits.
    """
    lowered = original.strip().lower()
    if _NAME.fullmatch(lowered) and lowered not in _RESERVED and not lowered.isdigit():
        return lowered
    plain = _OTHER.sub("-", lowered).lstrip("._-")[:_KEPT].rstrip("._-") or "service"
    return f"{plain}-{hashlib.sha256(lowered.encode('utf-8', 'surrogatepass')).hexdigest()[:_DIGITS]}"


def find(session: Session, *, name: str | None = None, service_id: int | None = None) -> Known | None:
    """A service by the original's name or by its number."""
    row = session.execute(
        text(
            "SELECT id, name, every_s, policy_version, coalesce(legacy_name, name) AS called,"
            "       paused_at IS NULL AS is_active, max_runtime_s"
            "  FROM services WHERE name = :name OR id = :id"
        ),
        {"name": fold(name) if name is not None else None, "id": service_id},
    ).one_or_none()
    if row is None:
        return None
    return Known(Watched(*row[:4]), row.called, row.is_active, row.max_runtime_s)
