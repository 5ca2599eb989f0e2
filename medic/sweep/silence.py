"""What Medic could not hear of the services of a batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from sqlalchemy.orm import Session

from medic.coverage import blind_intervals, refused_intervals
from medic.evaluator import Interval, OpenRun, Signal
from medic.schedule import AtLeast
from medic.sweep.rows import Due


def unheard(
    session: Session,
    dues: Sequence[Due],
    signals: Mapping[int, Sequence[Signal]],
    runs: Mapping[int, Sequence[OpenRun]],
    *,
    now: datetime,
) -> dict[int, tuple[Interval, ...]]:
    """By service, when Medic could not hear it: nobody at all, or its own heartbeats were refused.

    Two queries for the whole batch; services that were heard all along have no entry.
    """
    if not dues:
        return {}
    since = {
        due.service.id: _since(due, signals.get(due.service.id, ()), runs.get(due.service.id, ()))
        for due in dues
    }
    oldest = min(*since.values(), now)
    blind = blind_intervals(session, since=oldest, now=now)
    refused = refused_intervals(session, since, since=oldest, now=now)
    if not blind and not refused:
        return {}
    return {
        service_id: tuple(gap for gap in (*blind, *refused.get(service_id, ())) if gap.end > start)
        for service_id, start in since.items()
    }


def _since(due: Due, signals: Sequence[Signal], runs: Sequence[OpenRun]) -> datetime:
    """The oldest moment that a verdict of now, and its evidence, can reach back to."""
    state = due.state
    reach = state.started_at if state.last_success_at is None else state.last_success_at
    if isinstance(due.policy.schedule, AtLeast):
        reach = min(reach, state.base_at)
    began = [run.started_at for run in runs if run.ended_at is None]
    return min([reach, *began, *(signal.event_at for signal in signals)])
