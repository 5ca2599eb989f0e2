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

import functools
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any
from uuid import UUID

import structlog
from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from medic import machine, stop
from medic.db import database_now, in_transaction, is_away
from medic.executions import admission, approvals, control, telling
from medic.executions.dispatch import Dispatch, dispatch_again, publish, raise_epoch
from medic.executions.takeover import take_over
from medic.models.executions import Execution, ExecutionStep
from medic.times import format_time, parse_time

BATCH = 500
POLL = timedelta(seconds=5)
SET_ASIDE = timedelta(minutes=5)
"""How far a row is pushed ahead that cannot be looked at."""

log = structlog.get_logger("medic.due")

OldestDispatch = Callable[[str], datetime | None]
"""The time at which the execution of a queue's oldest message was last dispatched; nothing if empty."""

_DUE = text(
    """
    SELECT e.id, e.epoch, e.state, e.waiting_for, e.redispatches, e.dispatched_at, e.owner IS NOT NULL AS owned,
           e.deadline_at <= now() AS too_late, s.type,
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
           CAST(s."check" ->> 'deadline' AS timestamptz) AS check_deadline,
           coalesce(CAST(s.doubt ->> 'probing' AS boolean), false) AS probing
      FROM executions e
      JOIN execution_steps s ON s.execution_id = e.id AND s.position = least(e.next_step, e.step_count - 1)
     WHERE e.due_at <= now()
     ORDER BY e.due_at, e.id
     LIMIT :batch
    """
)

_PUSH = text(
    "UPDATE executions SET due_at = least(CAST(:due AS timestamptz), deadline_at)"
    " WHERE id = :id AND epoch = :epoch AND owner IS NULL AND state = :state"
)

_SET_ASIDE = text(
    "UPDATE executions SET due_at = now() + :ahead WHERE id = :id AND epoch = :epoch AND due_at <= now()"
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
    set_aside: int = 0


def sweep(engine: Engine, *, oldest_dispatch: OldestDispatch, judge_leases: bool) -> Swept:
    """Look at everything that is due, in one batch.

    :param oldest_dispatch: asked once per step type, with no transaction open.
    :param judge_leases: whether this process has reached the database for a whole lease.
    """
    swept = Swept()
    rows, now = in_transaction(engine, _find)
    oldest = functools.cache(oldest_dispatch)
    for row in rows:
        swept.seen += 1
        try:
            if not row["owned"]:
                swept.published += _step_on(engine, row, now, oldest)
            elif judge_leases:
                swept.taken_over += in_transaction(engine, partial(_lost, row=row))
        except Exception as error:
            if isinstance(error, DBAPIError) and is_away(error):
                raise
            # One row that cannot be looked at must not keep all others from going on.
            log.exception("executions.row_set_aside", execution_id=str(row["id"]))
            in_transaction(engine, partial(_set_aside, row=row))
            swept.set_aside += 1
    return swept


def _find(session: Session) -> tuple[list[Any], datetime]:
    now = database_now(session)
    if stop.stopped(session) is not None:
        return [], now
    return list(session.execute(_DUE, {"batch": BATCH}).mappings()), now


def _lost(session: Session, *, row: Any) -> bool:
    return take_over(session, execution_id=row["id"], epoch=row["epoch"])


def _set_aside(session: Session, *, row: Any) -> None:
    session.execute(_SET_ASIDE, {"id": row["id"], "epoch": row["epoch"], "ahead": SET_ASIDE})


def _step_on(engine: Engine, row: Any, now: datetime, oldest_dispatch: OldestDispatch) -> bool:
    """One transaction for one un-owned row, then the message that it asks for."""
    behind = False
    if row["state"] == "running" and row["dispatched_at"] is not None:
        oldest = oldest_dispatch(row["type"])
        behind = oldest is not None and oldest <= row["dispatched_at"]
    ready = in_transaction(engine, partial(_move, row=row, now=now, behind=behind))
    return ready is not None and publish(engine, ready)


def _move(session: Session, *, row: Any, now: datetime, behind: bool) -> Dispatch | None:
    """What becomes of a row.

    :param behind: a message that was sent before the row's own still waits in its queue.
    """
    execution_id: UUID = row["id"]
    epoch: int = row["epoch"]
    if row["too_late"]:
        _out_of_time(session, execution_id, now)
        return None
    match row["state"], row["waiting_for"]:
        case "running", _ if epoch > 0:
            if behind:
                # Our message waits in the queue too, and another would only make it longer.
                _push(session, row, now + machine.grace(row["redispatches"]))
                return None
            return dispatch_again(
                session, execution_id=execution_id, epoch=epoch, redispatches=row["redispatches"], now=now
            )
        case ("running", _) | ("waiting", "timer" | "retry"):
            return raise_epoch(session, execution_id=execution_id, epoch=epoch, now=now)
        case "waiting", "condition":
            deadline = row["check_deadline"]
            if row["met"] or deadline is None or deadline <= now:
                return raise_epoch(session, execution_id=execution_id, epoch=epoch, now=now)
            _push(session, row, min(now + POLL, deadline))
        case "waiting", _:
            if admission.admit_held(session, execution_id=execution_id, now=now):
                return raise_epoch(session, execution_id=execution_id, epoch=epoch, now=now)
        case "pending_approval", _:
            approvals.expire(session, execution_id=execution_id, now=now)
        case _:
            return _look_at_doubt(session, row, now)
    return None


def _push(session: Session, row: Any, due: datetime) -> None:
    session.execute(_PUSH, {"id": row["id"], "epoch": row["epoch"], "state": row["state"], "due": due})


def _look_at_doubt(session: Session, row: Any, now: datetime) -> Dispatch | None:
    """Ask the step's probe; without one, bring the question up again."""
    execution_id: UUID = row["id"]
    if row["probing"]:
        return raise_epoch(session, execution_id=execution_id, epoch=row["epoch"], now=now, probe=True)
    execution = session.get(Execution, execution_id, with_for_update={"key_share": True})
    if (
        execution is None
        or execution.state != "in_doubt"
        or execution.due_at is None
        or execution.due_at > now
    ):
        return None
    execution.look_again(now + machine.REMINDER)
    step = session.get_one(ExecutionStep, (execution_id, execution.next_step))
    if step.doubt is None:
        # Another release put it in doubt, or the restore of a backup did: nobody was told yet.
        step.doubt = {"epoch": execution.epoch, "since": format_time(now), "probing": False}
    since = parse_time(step.doubt["since"], path="since")
    slot = int((now - since) / machine.REMINDER)
    telling.tell_of_doubt(session, execution, step, epoch=step.doubt["epoch"], slot=slot, now=now)
    return None


def _out_of_time(session: Session, execution_id: UUID, now: datetime) -> None:
    execution = session.get(Execution, execution_id, with_for_update={"key_share": True})
    if execution is None or execution.owner is not None or execution.state in machine.FINAL_STATES:
        return
    error = {"code": "deadline", "message": "The execution's deadline passed."}
    control.end(session, execution, state="failed", error=error, now=now, rest="skipped")
