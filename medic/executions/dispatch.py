"""Dispatch: raise the epoch, commit, then publish what remains as one real Celery chain.

A row that was dispatched and stayed unclaimed past its grace is published again under the same epoch, so
that a message that is merely late stays valid and the claim lets one of the two in.  A publish that
fails makes the row due at once and does not count.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Engine, text
from sqlalchemy.orm import Session

from medic import broker, machine
from medic.db import in_transaction
from medic.executions.pinned import pinned
from medic.steps import load_types
from medic.telemetry.traces import continue_trace


@dataclass(frozen=True, slots=True)
class Dispatch:
    """A row whose epoch was raised (or kept), ready to be published."""

    execution_id: UUID
    epoch: int
    position: int
    redispatches: int
    parked: bool
    parent_id: str | None
    traceparent: str | None
    source: str


_RETURNING = """
 RETURNING e.id AS execution_id, e.epoch, e.next_step AS position, e.redispatches,
           (SELECT s.parked_at IS NOT NULL FROM execution_steps s
             WHERE s.execution_id = e.id AND s.position = e.next_step) AS parked,
           e.last_task_id AS parent_id, e.traceparent,
           (SELECT v.source FROM playbook_versions v
             WHERE v.playbook_id = e.playbook_id AND v.version = e.playbook_version) AS source
"""

# The sweep re-checks `due_at`: without it one of two sweeps would dispatch a row that the other just did.
_RAISE = text(
    """
    UPDATE executions e
       SET epoch = e.epoch + 1, state = 'running', waiting_for = NULL, redispatches = 0,
           due_at = least(now() + :grace, e.deadline_at), dispatched_at = now()
     WHERE e.id = :id AND e.epoch = :epoch AND e.owner IS NULL
       AND (e.state IN ('running', 'waiting') OR (:probe AND e.state = 'in_doubt'))
       AND e.cancel_requested_at IS NULL AND (NOT :due OR e.due_at <= :now)
       AND coalesce(e.waiting_for, '') NOT IN ('concurrency', 'lock')
    """
    + _RETURNING
)

_AGAIN = text(
    """
    UPDATE executions e
       SET redispatches = e.redispatches + 1, due_at = least(now() + :grace, e.deadline_at),
           dispatched_at = now()
     WHERE e.id = :id AND e.epoch = :epoch AND e.owner IS NULL AND e.state = 'running'
       AND e.cancel_requested_at IS NULL AND e.due_at <= :now AND e.redispatches = :redispatches
    """
    + _RETURNING
)

# Without `dispatched_at` the sweep does not take it for a message that waits in a long queue.
_FAILED = text(
    """
    UPDATE executions
       SET due_at = now(), dispatched_at = NULL, redispatches = greatest(redispatches - 1, 0)
     WHERE id = :id AND epoch = :epoch AND owner IS NULL AND state = 'running'
       AND next_step = :position AND redispatches = :redispatches
    """
)


def raise_epoch(
    session: Session, *, execution_id: UUID, epoch: int, now: datetime | None = None, probe: bool = False
) -> Dispatch | None:
    """Make the row dispatched under the next epoch, or nothing when somebody else did.

    :param now: the sweep's time, when only a row that is still due may go.
    :param probe: the row may stand in doubt, and its step's probe goes.
    """
    row = session.execute(
        _RAISE,
        {"id": execution_id, "epoch": epoch, "grace": machine.grace(0), "due": now is not None, "now": now,
         "probe": probe},
    ).mappings().one_or_none()  # fmt: skip
    return Dispatch(**row) if row else None


def dispatch_again(
    session: Session, *, execution_id: UUID, epoch: int, redispatches: int, now: datetime
) -> Dispatch | None:
    """Publish an unclaimed row once more under its epoch, with twice the grace."""
    row = session.execute(
        _AGAIN,
        {"id": execution_id, "epoch": epoch, "redispatches": redispatches, "now": now,
         "grace": machine.grace(redispatches + 1)},
    ).mappings().one_or_none()  # fmt: skip
    return Dispatch(**row) if row else None


def links(dispatch: Dispatch) -> list[broker.Link]:
    """The chain to publish: the steps that remain up to the next one that parks, 20 at the most."""
    types = load_types()
    playbook = pinned(dispatch.source)
    parking = frozenset(name for name, type_ in types.items() if type_.parks)
    positions = machine.window(
        playbook.steps, start=dispatch.position, parked=dispatch.parked, parking=parking
    )
    again = f".r{dispatch.redispatches + 1}" if dispatch.redispatches else ""
    return [
        broker.Link(
            execution_id=str(dispatch.execution_id),
            position=position,
            epoch=dispatch.epoch,
            task_id=f"{dispatch.execution_id}.s{position:02d}.e{dispatch.epoch}{again}",
            step_type=step.type,
            step_name=step.name,
            queue=types[step.type].queue,
            timeout_s=step.timeout.total_seconds() if step.timeout else 60.0,
        )
        for position in positions
        for step in (playbook.steps[position],)
    ]


def publish(engine: Engine, dispatch: Dispatch) -> bool:
    """Publish after the commit; on failure the row is due again at once, by compare-and-set."""
    with continue_trace(dispatch.traceparent):
        sent = broker.publish_chain(
            links(dispatch), root_id=str(dispatch.execution_id), parent_id=dispatch.parent_id
        )
    if not sent:
        values: dict[str, Any] = {
            "id": dispatch.execution_id, "epoch": dispatch.epoch, "position": dispatch.position,
            "redispatches": dispatch.redispatches,
        }  # fmt: skip
        in_transaction(engine, lambda session: session.execute(_FAILED, values))
    return sent


def dispatch(engine: Engine, *, execution_id: UUID, epoch: int, now: datetime | None = None) -> bool:
    """Raise the epoch, commit, publish.  False when somebody else was first or the broker is away."""
    ready = in_transaction(
        engine, lambda session: raise_epoch(session, execution_id=execution_id, epoch=epoch, now=now)
    )
    return ready is not None and publish(engine, ready)
