"""Record what became of a message, guarded by its owner and epoch: a worker that lost it changes nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import bindparam, text
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.orm import Session
from sqlalchemy.types import BigInteger

from medic.deliveries.failover import give_up, switch_off, wake_behind
from medic.deliveries.message import ClaimedMessage
from medic.deliveries.schedule import LONGEST_REST_S, REST, retry_at
from medic.telemetry import metrics

LONGEST_ERROR = 500

_OURS = " WHERE id = ANY(:ids) AND owner = :owner AND epoch = :epoch AND finished_at IS NULL RETURNING id"

_DELIVERED = text(
    "UPDATE deliveries SET state = 'delivered', owner = NULL, due_at = NULL, finished_at = :now, receipt = :receipt,"
    " error = NULL" + _OURS
).bindparams(bindparam("ids", type_=ARRAY(BigInteger)), bindparam("receipt", type_=JSONB))

_NOT_DELIVERED = text(
    "UPDATE deliveries SET owner = NULL, tries = tries + 1, error = :error, due_at = :due_at" + _OURS
).bindparams(bindparam("ids", type_=ARRAY(BigInteger)))

# One message tries whether the target answers again; the others wait for it, but never long.
_REST = text(
    """
    UPDATE deliveries SET due_at = :until
     WHERE target_id = :target_id AND finished_at IS NULL AND owner IS NULL AND carried_by IS NULL
       AND due_at < :until AND kind <> 'test' AND NOT id = ANY(:ids)
    """
).bindparams(bindparam("ids", type_=ARRAY(BigInteger)))


def record_delivered(
    session: Session, message: ClaimedMessage, receipt: Mapping[str, Any], *, now: datetime
) -> bool:
    """It arrived; false when this worker was fenced."""
    if not _recorded(session, _DELIVERED, message, now=now, receipt=dict(receipt)):
        return False
    kind = message.target.kind
    metrics.DELIVERIES.labels(kind, "delivered").inc(len(message.ids))
    metrics.DELIVERY_SECONDS.labels(kind).observe(max(0.0, (now - message.created_at).total_seconds()))
    wake_behind(session, target_id=message.target.id, alert_ids=message.alert_ids, now=now)
    return True


def record_temporary(
    session: Session, message: ClaimedMessage, error: str, *, retry_after: float | None, now: datetime
) -> set[int]:
    """It did not arrive this time: it is due again later, or has been tried enough.

    :returns: other targets that have something due now.
    """
    due_at = retry_at(
        message.key, tries=message.tries + 1, created_at=message.created_at, now=now, retry_after=retry_after,
        others=message.others,
    )  # fmt: skip
    if not _recorded(session, _NOT_DELIVERED, message, error=_short(error), due_at=due_at or now):
        return set()
    rest = max(REST.total_seconds(), min(retry_after or 0.0, LONGEST_REST_S))
    until = now + timedelta(seconds=rest)
    session.execute(
        _REST,
        {"until": min(due_at or until, until), "target_id": message.target.id, "ids": list(message.ids)},
    )
    if due_at is not None:
        metrics.DELIVERIES.labels(message.target.kind, "retried").inc(len(message.ids))
        return set()
    return give_up(session, _heads(message), error=_short(error), now=now, kind=message.target.kind)


def record_permanent(
    session: Session, message: ClaimedMessage, error: str, *, disables: bool, now: datetime
) -> set[int]:
    """It will never arrive; with ``disables`` nothing will arrive there.

    :returns: other targets that have something due now.
    """
    if not _recorded(session, _NOT_DELIVERED, message, error=_short(error), due_at=now):
        return set()
    told: set[int] = set()
    if disables and message.kind != "test":
        # First, so that the route does not choose it again.
        switched = switch_off(
            session, message.target, reason=_short(error), route_id=message.route_id, now=now
        )
        if switched is None:
            return set()
        told = switched
    return told | give_up(session, _heads(message), error=_short(error), now=now, kind=message.target.kind)


def _heads(message: ClaimedMessage) -> Sequence[int]:
    return message.ids[:1]


def _recorded(session: Session, statement: Any, message: ClaimedMessage, **values: Any) -> bool:
    rows = session.execute(
        statement, {"ids": list(message.ids), "owner": message.owner, "epoch": message.epoch, **values}
    ).all()
    return bool(rows)


def _short(error: str) -> str:
    return error if len(error) <= LONGEST_ERROR else error[: LONGEST_ERROR - 1] + "…"
