"""Claim the next message of a target, in one transaction.

The target's row is locked, so that its budget is exact, and nobody waits for it: who finds it locked comes back.
What cannot go is settled on the way: what nobody needs to hear any more is suppressed, what a storm or the
budget keeps back waits, what killed too many workers fails.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import bindparam, select, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Session
from sqlalchemy.types import BigInteger, Text

from medic.deliveries.failover import give_up, others_behind
from medic.deliveries.grouping import GATHER, MINUTE, OPENINGS, Family, Waiting, plan, word_of
from medic.deliveries.message import ClaimedMessage, kind_of
from medic.deliveries.schedule import IN_FLIGHT, LEASE, MAX_LOSSES
from medic.models.alerting import Target
from medic.targets import KINDS
from medic.telemetry import metrics

LOOKED_AT = 1_000
"""Due deliveries of a target that one claim looks at."""

MOOT_WITHIN = timedelta(minutes=5)
"""An alert that was over before anybody was told of it is not worth a message, unless the delay was ours."""

_DUE = text(
    """
    SELECT d.id, d.kind, d.route_id, d.alert_id, d.transition_id, d.created_at, d.due_at, d.epoch, d.tries,
           d.owner IS NOT NULL AS owned, a.resolved_at IS NOT NULL AS over,
           (SELECT b.due_at FROM deliveries b
             WHERE b.alert_id = d.alert_id AND b.target_id = d.target_id AND b.id < d.id AND b.finished_at IS NULL
             ORDER BY b.id LIMIT 1) AS behind,
           EXISTS (SELECT 1 FROM deliveries t
                    WHERE t.alert_id = d.alert_id AND t.target_id = d.target_id AND t.state = 'delivered'
                      AND t.kind = ANY(:openings)) AS told,
           d.kind = 'renotified' AND EXISTS (
               SELECT 1 FROM deliveries n
                WHERE n.alert_id = d.alert_id AND n.target_id = d.target_id AND n.id > d.id
                  AND n.finished_at IS NULL AND n.kind IN ('renotified', 'resolved')) AS outdated
      FROM deliveries d LEFT JOIN alerts a ON a.id = d.alert_id
     WHERE d.target_id = :target_id AND d.finished_at IS NULL AND d.carried_by IS NULL AND d.due_at <= :now
     ORDER BY d.tries, d.id
     LIMIT :looked_at
       FOR NO KEY UPDATE OF d SKIP LOCKED
    """
).bindparams(bindparam("openings", type_=ARRAY(Text)))

# What went, and what is on its way (since it was claimed, at the latest now): one row for each message.
_WENT = text(
    """
    SELECT route_id, kind, coalesce(finished_at, :now) AS at, finished_at IS NULL AS leased
      FROM deliveries
     WHERE target_id = :target_id AND carried_by IS NULL AND epoch > 0
       AND (finished_at > :since OR finished_at IS NULL AND owner IS NOT NULL AND due_at > :now)
       AND state <> 'suppressed'
    """
)

# Not what only waits for an earlier one of its alert.
_GATHERING = text(
    """
    SELECT d.route_id, d.kind, min(d.due_at) AS until FROM deliveries d
     WHERE d.target_id = :target_id AND d.finished_at IS NULL AND d.owner IS NULL AND d.epoch = 0
       AND d.due_at > :now AND d.due_at <= :latest AND d.due_at > d.created_at
       AND (d.kind = 'opened' OR NOT EXISTS (
                SELECT 1 FROM deliveries b
                 WHERE b.alert_id = d.alert_id AND b.target_id = d.target_id AND b.id < d.id
                   AND b.finished_at IS NULL))
     GROUP BY d.route_id, d.kind
    """
)

_WAIT = text(
    """
    UPDATE deliveries d SET due_at = v.until
      FROM unnest(CAST(:ids AS bigint[]), CAST(:until AS timestamptz[])) AS v (id, until)
     WHERE d.id = v.id AND d.owner IS NULL AND d.finished_at IS NULL
    """
)

_SUPPRESS = text(
    "UPDATE deliveries SET state = 'suppressed', owner = NULL, due_at = NULL, finished_at = :now, error = :error"
    " WHERE (id = ANY(:ids) OR carried_by = ANY(:ids)) AND finished_at IS NULL"
).bindparams(bindparam("ids", type_=ARRAY(BigInteger)))

_TAKE = text(
    """
    UPDATE deliveries
       SET owner = :owner, due_at = :now + :lease, epoch = epoch + 1,
           carried_by = CASE WHEN id <> :head THEN CAST(:head AS bigint) END
     WHERE (id = ANY(:ids) OR carried_by = :head) AND finished_at IS NULL
    RETURNING id, uuid, kind, alert_id, route_id, payload, tries, epoch, created_at
    """
).bindparams(bindparam("ids", type_=ARRAY(BigInteger)))

# What told of each alert first; before that, what told of it alone: a message of many is not one alert's to change.
_EARLIER = text(
    """
    SELECT DISTINCT ON (d.alert_id) d.alert_id, d.receipt, d.gathered FROM (
        SELECT d.id, d.alert_id, d.receipt,
               d.carried_by IS NOT NULL OR EXISTS (SELECT 1 FROM deliveries m WHERE m.carried_by = d.id) AS gathered
          FROM deliveries d
         WHERE d.alert_id = ANY(:alert_ids) AND d.target_id = :target_id AND d.state = 'delivered'
           AND d.kind = ANY(:openings) AND d.receipt IS NOT NULL
    ) d
     ORDER BY d.alert_id, d.gathered, d.id
    """
).bindparams(bindparam("openings", type_=ARRAY(Text)), bindparam("alert_ids", type_=ARRAY(BigInteger)))


def claim(
    session: Session, *, target_id: int, now: datetime, lease: timedelta = LEASE
) -> ClaimedMessage | None:
    """Take the next message of this target; nothing when none may go, or others are at work on it."""
    target = session.scalars(
        select(Target)
        .where(Target.id == target_id)
        .with_for_update(key_share=True, skip_locked=True)
    ).one_or_none()  # fmt: skip
    if target is None:
        return None
    went = session.execute(
        _WENT, {"target_id": target_id, "now": now, "since": now - MINUTE}
    ).mappings().all()  # fmt: skip
    if sum(row["leased"] for row in went) >= IN_FLIGHT:
        return None
    kind = KINDS.get(target.kind)
    due = _due(session, target, now)
    chosen = plan(
        [_waiting(row) for row in due],
        now=now,
        groups=kind is not None and kind.groups,
        sent=_sent(went),
        gathering=_gathering(session, target_id, now),
        budget=[row["at"] for row in went],
        per_minute=target.per_minute,
    )
    _wait(session, chosen.waits)
    if not chosen.message:
        return None
    if any(row["owned"] for row in due if row["id"] == chosen.message[0]):
        metrics.DELIVERIES.labels(target.kind, "lost").inc()
    return _take(session, target, chosen.message, now, lease)


def _waiting(row: Mapping[str, Any]) -> Waiting:
    return Waiting(
        id=row["id"], kind=row["kind"], route_id=row["route_id"], created_at=row["created_at"],
        due_at=row["due_at"], claimed=row["epoch"] > 0,
    )  # fmt: skip


def _due(session: Session, target: Target, now: datetime) -> list[Any]:
    """What is due and may go; what was settled may have let something go that stood behind it."""
    values = {"target_id": target.id, "now": now, "openings": list(OPENINGS), "looked_at": LOOKED_AT}
    while True:
        rows = session.execute(_DUE, values).mappings().all()
        left, settled = _settle(session, target, rows, now)
        if left or not settled:
            return left


def _settle(session: Session, target: Target, rows: Sequence[Any], now: datetime) -> tuple[list[Any], int]:
    """Settle what does not go.

    :returns: what may, and how many are settled.
    """
    left: list[Any] = []
    waits: dict[int, datetime] = {}
    lost: list[int] = []
    disabled: list[int] = []
    untold: list[int] = []
    moot: list[int] = []
    outdated: list[int] = []
    for row in rows:
        if row["owned"] and row["epoch"] - row["tries"] >= MAX_LOSSES:
            lost.append(row["id"])
        elif target.disabled_at is not None and row["kind"] != "test":
            disabled.append(row["id"])
        elif row["outdated"] and row["epoch"] == 0:
            outdated.append(row["id"])
        elif row["behind"] is not None:
            # In the order of what happened; it is woken when the one before it has gone.
            if row["behind"] > now:
                waits[row["id"]] = row["behind"]
        elif row["kind"] in {"acknowledged", "resolved"} and not row["told"]:
            untold.append(row["id"])
        elif _is_moot(row, now):
            moot.append(row["id"])
        else:
            left.append(row)
    _wait(session, waits)
    _suppress(session, target, untold, "Nobody was told here that the alert is open.", now)
    _suppress(session, target, moot, "The alert was over before this was sent.", now)
    _suppress(session, target, outdated, "A later message says what is so.", now)
    give_up(
        session, lost, error=f"{MAX_LOSSES} workers were lost while they sent it.", now=now, kind=target.kind
    )
    give_up(
        session, disabled, error=f"The target is switched off: {target.disabled_reason}", now=now, kind=target.kind
    )  # fmt: skip
    return left, sum(map(len, (lost, disabled, untold, moot, outdated)))


def _is_moot(row: Mapping[str, Any], now: datetime) -> bool:
    return (
        row["over"]
        and row["kind"] in OPENINGS
        and row["epoch"] == 0
        and not row["told"]
        and now - row["created_at"] < MOOT_WITHIN
    )


def _sent(went: Sequence[Any]) -> dict[Family, list[datetime]]:
    sent: dict[Family, list[datetime]] = {}
    for row in went:
        word = word_of(row["kind"])
        if word is not None:
            sent.setdefault((row["route_id"], word), []).append(row["at"])
    return sent


def _gathering(session: Session, target_id: int, now: datetime) -> dict[Family, datetime]:
    found: dict[Family, datetime] = {}
    values = {"target_id": target_id, "now": now, "latest": now + GATHER}
    for row in session.execute(_GATHERING, values).mappings():
        word = word_of(row["kind"])
        if word is not None:
            family = (row["route_id"], word)
            found[family] = min(row["until"], found.get(family, row["until"]))
    return found


def _wait(session: Session, waits: Mapping[int, datetime]) -> None:
    if waits:
        session.execute(_WAIT, {"ids": list(waits), "until": list(waits.values())})


def _suppress(session: Session, target: Target, ids: Collection[int], error: str, now: datetime) -> None:
    if ids:
        session.execute(_SUPPRESS, {"ids": list(ids), "error": error, "now": now})
        metrics.DELIVERIES.labels(target.kind, "suppressed").inc(len(ids))


def _take(
    session: Session, target: Target, ids: Sequence[int], now: datetime, lease: timedelta
) -> ClaimedMessage:
    owner = UUID(bytes=secrets.token_bytes(16), version=4)
    head_id = ids[0]
    taken = sorted(
        session.execute(
            _TAKE, {"owner": owner, "now": now, "lease": lease, "head": head_id, "ids": list(ids)}
        ).mappings(),
        key=lambda row: (row["id"] != head_id, row["id"]),
    )
    head = taken[0]
    alert_ids = tuple(dict.fromkeys(row["alert_id"] for row in taken if row["alert_id"] is not None))
    kind = kind_of([row["kind"] for row in taken])
    found = _earlier(session, target, alert_ids)
    earlier = found[alert_ids[0]].receipt if len(taken) == 1 and found else None
    alone = {row.alert_id: row.receipt for row in found.values() if not row.gathered}
    return ClaimedMessage(
        target=target,
        ids=tuple(row["id"] for row in taken),
        owner=owner,
        epoch=head["epoch"],
        key=head["uuid"],
        kind=kind,
        route_id=head["route_id"],
        alert_ids=alert_ids,
        payloads=tuple(row["payload"] for row in taken),
        tries=head["tries"],
        created_at=head["created_at"],
        now=now,
        others=others_behind(session, head_id),
        earlier=earlier,
        earlier_of=alone if kind == "resolved" and len(taken) > 1 else {},
    )


def _earlier(session: Session, target: Target, alert_ids: Sequence[int]) -> dict[int, Any]:
    if not alert_ids:
        return {}
    values = {"alert_ids": list(alert_ids), "target_id": target.id, "openings": list(OPENINGS)}
    return {row.alert_id: row for row in session.execute(_EARLIER, values)}
