"""The due sweep: whatever stands past its ``due_at`` is looked at again.

    un-owned   running    -> published (again); left alone while its queue is behind
               waiting    -> dispatched: a timer or a back-off is over; a condition is met or too late;
                             a place or a lock may be free
               pending_approval, in_doubt -> the question decides itself, or comes up again
    owned      the lease ran out -> taken over, by the step's ``on_crash``

Leases are only judged when this process could reach the database for a whole lease without a gap, so
that a restart of the database puts no living step in doubt.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any
from uuid import UUID

from sqlalchemy import Engine, text
from sqlalchemy.orm import Session

from medic import machine, stop
from medic.db import database_now, in_transaction
from medic.executions import admission, approvals, control
from medic.executions.dispatch import Dispatch, dispatch_again, publish, raise_epoch
from medic.executions.takeover import take_over
from medic.models.executions import Execution

BATCH = 500
POLL = timedelta(seconds=5)

OldestDispatch = Callable[[str], datetime | None]
"""The time at which the execution of a queue's oldest message was last dispatched; nothing if empty."""

_DUE = text(
    """
    SELECT e.id, e.epoch, e.state, e.waiting_for, e.redispatches, e.dispatched_at, e.owner IS NOT NULL AS owned,
           e.deadline_at <= now() AS too_late, e.cancel_requested_at IS NOT NULL AS cancelled, s.type,
           CASE s."check" ->> 'kind'
               WHEN 'heartbeat_received' THEN (
                   SELECT count(*) FROM (
                       SELECT 1 FROM heartbeats h
                        WHERE h.service_id = CAST(s."check" ->> 'service_id' AS bigint)
                          AND h.received_at > CAST(s."check" ->> 'since' AS timestamptz)
                          AND (h.kind = s."check" ->> 'status'
                               OR (s."check" ->> 'status' IS NULL AND h.kind IN ('ok', 'complete')))
                        LIMIT CAST(s."check" ->> 'min_count' AS int)) found
                   ) >= CAST(s."check" ->> 'min_count' AS int)
               WHEN 'alert_resolved' THEN NOT EXISTS (
                   SELECT 1 FROM alerts a
                    WHERE a.id = CAST(s."check" ->> 'alert_id' AS bigint) AND a.resolved_at IS NULL)
           END AS met,
           CAST(s."check" ->> 'deadline' AS timestamptz) AS check_deadline
      FROM executions e
      JOIN execution_steps s ON s.execution_id = e.id AND s.position = least(e.next_step, e.step_count - 1)
     WHERE e.due_at <= now()
     ORDER BY e.due_at, e.id
     LIMIT :batch
    """
)

_PUSH = text(
    "UPDATE executions SET due_at = :due WHERE id = :id AND epoch = :epoch AND owner IS NULL AND state = :state"
)


@dataclass(slots=True)
class Reach:
    """Since when this process could reach the database without a gap.  Times are its monotonic clock's."""

    since: float | None = None
    last: float | None = None

    GAP = 10.0

    def mark(self, at: float) -> None:
        """The database answered."""
        if self.last is None or at - self.last > self.GAP:
            self.since = at
        self.last = at

    def whole_lease(self, at: float, lease: timedelta) -> bool:
        """It answered for a whole lease."""
        return self.since is not None and at - self.since >= lease.total_seconds()


@dataclass(slots=True)
class Swept:
    """What one due sweep did."""

    seen: int = 0
    published: int = 0
    taken_over: int = 0


def sweep(engine: Engine, *, oldest_dispatch: OldestDispatch, judge_leases: bool) -> Swept:
    """Look at everything that is due, in one batch.

    :param judge_leases: whether this process has reached the database for a whole lease.
    """
    swept = Swept()
    rows, now = in_transaction(engine, _find)
    for row in rows:
        swept.seen += 1
        if row["owned"]:
            if judge_leases:
                swept.taken_over += in_transaction(engine, partial(_lost, row=row))
            continue
        ready = in_transaction(engine, partial(_step_on, row=row, now=now, oldest_dispatch=oldest_dispatch))
        if ready is not None:
            swept.published += publish(engine, ready)
    return swept


def _find(session: Session) -> tuple[list[Any], datetime]:
    now = database_now(session)
    if stop.stopped(session) is not None:
        return [], now
    return list(session.execute(_DUE, {"batch": BATCH}).mappings()), now


def _lost(session: Session, *, row: Any) -> bool:
    return take_over(session, execution_id=row["id"], epoch=row["epoch"])


def _step_on(
    session: Session, *, row: Any, now: datetime, oldest_dispatch: OldestDispatch
) -> Dispatch | None:
    """One transaction for one un-owned row; what it returns is published after the commit."""
    execution_id: UUID = row["id"]
    epoch: int = row["epoch"]
    if row["too_late"]:
        _out_of_time(session, execution_id, now)
        return None
    match row["state"], row["waiting_for"]:
        case "running", _ if row["dispatched_at"] is None:
            return raise_epoch(session, execution_id=execution_id, epoch=epoch, now=now)
        case "running", _:
            oldest = oldest_dispatch(row["type"])
            if oldest is not None and oldest <= row["dispatched_at"]:
                # The queue is behind: our message waits in it, and another would only make it longer.
                _push(session, row, now + machine.grace(row["redispatches"]))
                return None
            return dispatch_again(
                session, execution_id=execution_id, epoch=epoch, redispatches=row["redispatches"], now=now
            )
        case "waiting", "timer" | "retry":
            return raise_epoch(session, execution_id=execution_id, epoch=epoch, now=now)
        case "waiting", "condition":
            deadline = row["check_deadline"]
            if row["met"] or deadline is None or deadline <= now:
                return raise_epoch(session, execution_id=execution_id, epoch=epoch, now=now)
            _push(session, row, min(now + POLL, deadline))
        case "waiting", _:
            admission.admit_held(session, execution_id=execution_id, now=now)
        case "pending_approval", _:
            approvals.expire(session, execution_id=execution_id, now=now)
        case _:
            _push(session, row, now + machine.REMINDER)
    return None


def _push(session: Session, row: Any, due: datetime) -> None:
    session.execute(_PUSH, {"id": row["id"], "epoch": row["epoch"], "state": row["state"], "due": due})


def _out_of_time(session: Session, execution_id: UUID, now: datetime) -> None:
    execution = session.get(Execution, execution_id, with_for_update={"key_share": True})
    if execution is None or execution.owner is not None or execution.state in machine.FINAL_STATES:
        return
    error = {"code": "deadline", "message": "The execution's deadline passed."}
    control.end(session, execution, state="failed", error=error, now=now, rest="skipped")
