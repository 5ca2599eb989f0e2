"""Ticks: how often a beat job may run, whoever sends the ticks.  Two beats tick twice; one tick wins."""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy import text
from sqlalchemy.orm import Session

_TAKE = text(
    """
    INSERT INTO ticks (job, last_at) VALUES (:job, now())
    ON CONFLICT (job) DO UPDATE SET last_at = now() WHERE ticks.last_at <= now() - :at_least
    RETURNING job
    """
)


def take_tick(session: Session, job: str, *, at_least: timedelta) -> bool:
    """Take this tick, by compare-and-set on the last one; false when that was less than ``at_least`` ago."""
    return session.execute(_TAKE, {"job": job, "at_least": at_least}).scalar_one_or_none() is not None


def last_tick(session: Session, job: str) -> datetime | None:
    """When the last tick of this job was taken; None when none ever was."""
    return session.execute(
        text("SELECT last_at FROM ticks WHERE job = :job"), {"job": job}
    ).scalar_one_or_none()
