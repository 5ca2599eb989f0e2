"""Statistics of services: days that are over are rolled up, today is counted when somebody asks.

A roll-up is one service batch and one day in one transaction; doing it again changes nothing.  The seconds
of the last days are judged anew at each roll-up, as an alert may be opened or cleared late; heartbeats are
counted once, when the day is over, since none can be received in it any more.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any

from sqlalchemy import Row, bindparam, select, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Session
from sqlalchemy.types import BigInteger, Date, DateTime, Integer, Text

from medic import services
from medic.coverage import blind_intervals
from medic.evaluator import Interval
from medic.heartbeats import HISTORY_AGE
from medic.models.monitoring import ServiceDay
from medic.uptime import DAY, Split, day_of, pauses, percent, split

BATCH = 1_000
"""Services of one transaction."""

SETTLED = timedelta(minutes=5)
"""No ingest transaction lives this long: so much later, a day has all its heartbeats."""

JUDGED_AGAIN = 2
"""Days back from the last one that are judged anew each time."""

NEWEST_RUNS = 100


@dataclass(frozen=True, slots=True)
class Day:
    """How a service was on one day; ``heartbeats`` are signals of every kind, by their arrival."""

    day: date
    split: Split
    alerts: int
    heartbeats: int


@dataclass(frozen=True, slots=True)
class Runs:
    """The newest runs that ended; ``durations`` are of those whose end was heard, so of no lost one.

    A percentile is the nearest rank: a duration that really was.
    """

    completed: int
    failed: int
    lost: int
    average_ms: float | None
    p50_ms: int | None
    p95_ms: int | None
    p99_ms: int | None
    min_ms: int | None
    max_ms: int | None

    @property
    def count(self) -> int:
        return self.completed + self.failed + self.lost

    @property
    def success_ratio(self) -> float | None:
        return round(self.completed / self.count, 4) if self.count else None


@dataclass(frozen=True, slots=True)
class Statistics:
    """The days asked for, oldest first, and the newest runs."""

    days: tuple[Day, ...]
    runs: Runs

    @property
    def uptime_percent(self) -> float | None:
        return percent(sum(day.split.up_s for day in self.days), sum(day.split.down_s for day in self.days))

    @property
    def alerts(self) -> int:
        return sum(day.alerts for day in self.days)

    @property
    def heartbeats(self) -> int:
        return sum(day.heartbeats for day in self.days)


def of_service(session: Session, *, name: str, days: int, now: datetime) -> Statistics:
    """The last ``days`` days of a service, today the last of them.

    :raises NotFound: no such service.
    """
    service, _ = services.find(session, name)
    today = _date(now)
    first = max(today - (days - 1) * DAY, _date(service.created_at))
    stored = session.scalars(
        select(ServiceDay)
        .where(ServiceDay.service_id == service.id, ServiceDay.day >= first, ServiceDay.day < today)
        .order_by(ServiceDay.day)
    ).all()
    found = [
        Day(row.day, Split(row.up_s, row.down_s, row.unknown_s), row.alerts, row.heartbeats) for row in stored
    ]
    # Yesterday too, until it is rolled up.
    live = {max(today - DAY, first), today} - {row.day for row in stored}
    blind = blind_intervals(session, since=day_of(min(live)).start, now=now)
    for day in sorted(live):
        whole = day_of(day)
        whole = Interval(whole.start, min(whole.end, now))
        evidence = _evidence(session, [service.id], whole)[service.id]
        counted = _heartbeats(session, [service.id], whole).get(service.id, 0)
        found.append(Day(day, evidence.split(whole, blind), evidence.opened(whole), counted))
    return Statistics(tuple(found), runs(session, service.id))


def runs(session: Session, service_id: int) -> Runs:
    """The newest runs of a service, of those that ended."""
    row = session.execute(_RUNS, {"service_id": service_id, "newest": NEWEST_RUNS}).one()
    p50, p95, p99 = row.ranks or (None, None, None)
    average = None if row.average is None else round(float(row.average), 1)
    return Runs(row.completed, row.failed, row.lost, average, p50, p95, p99, row.least, row.most)


# Served by the index over (service_id, started_at), read backwards.
_RUNS = text(
    """
    SELECT count(*) FILTER (WHERE state = 'completed') AS completed,
           count(*) FILTER (WHERE state = 'failed') AS failed,
           count(*) FILTER (WHERE state = 'lost') AS lost,
           avg(duration_ms) FILTER (WHERE state <> 'lost') AS average,
           min(duration_ms) FILTER (WHERE state <> 'lost') AS least,
           max(duration_ms) FILTER (WHERE state <> 'lost') AS most,
           percentile_disc(ARRAY[0.5, 0.95, 0.99]) WITHIN GROUP (ORDER BY duration_ms)
               FILTER (WHERE state <> 'lost') AS ranks
      FROM (SELECT state, duration_ms FROM runs
             WHERE service_id = :service_id AND state <> 'open'
             ORDER BY started_at DESC LIMIT :newest) newest
    """
)


@dataclass(frozen=True, slots=True)
class Todo:
    """A day of some services that is to be rolled up; of the ``missing`` ones, heartbeats are counted too."""

    day: date
    service_ids: tuple[int, ...]
    missing: tuple[int, ...]


def next_services(session: Session, *, after: int) -> list[int]:
    """The next services by id."""
    found = session.scalars(
        text("SELECT id FROM services WHERE id > :after ORDER BY id LIMIT :batch"),
        {"after": after, "batch": BATCH},
    )
    return list(found)


def to_roll_up(session: Session, service_ids: Sequence[int], *, keep_days: int, now: datetime) -> list[Todo]:
    """The days of these services that have no row, and the last ones again.

    :param keep_days: how far back heartbeats are kept: older days cannot be counted any more.
    """
    last = _date(now - SETTLED) - DAY
    oldest = _date(now) - keep_days * DAY
    rows = session.execute(
        _TO_ROLL_UP,
        {"ids": list(service_ids), "oldest": oldest, "last": last, "recent": last - (JUDGED_AGAIN - 1) * DAY},
    )
    return [Todo(row.day, tuple(row.ids), tuple(row.missing or ())) for row in rows]


_TO_ROLL_UP = text(
    """
    SELECT d.day, array_agg(s.id ORDER BY s.id) AS ids,
           array_agg(s.id ORDER BY s.id) FILTER (WHERE t.service_id IS NULL) AS missing
      FROM services s
     CROSS JOIN LATERAL (
        SELECT CAST(:oldest AS date) + n AS day
          FROM generate_series(greatest(0, CAST(s.created_at AT TIME ZONE 'UTC' AS date) - CAST(:oldest AS date)),
                               CAST(:last AS date) - CAST(:oldest AS date)) n) d
      LEFT JOIN service_days t ON t.service_id = s.id AND t.day = d.day
     WHERE s.id = ANY(:ids) AND (t.service_id IS NULL OR d.day >= :recent)
     GROUP BY d.day ORDER BY d.day
    """
).bindparams(bindparam("ids", type_=ARRAY(BigInteger)))


def roll_up(session: Session, todo: Todo, *, blind: Sequence[Interval]) -> int:
    """Write the rows of one day; returns how many are new or changed.

    :param blind: when Medic could not hear; may reach beyond the day.
    """
    whole = day_of(todo.day)
    evidence = _evidence(session, todo.service_ids, whole)
    counted = _heartbeats(session, todo.missing, whole) if todo.missing else {}
    splits = {service_id: found.split(whole, blind) for service_id, found in evidence.items()}
    written = session.execute(
        _WRITE,
        {
            "day": todo.day,
            "service_id": list(splits),
            "up_s": [one.up_s for one in splits.values()],
            "down_s": [one.down_s for one in splits.values()],
            "unknown_s": [one.unknown_s for one in splits.values()],
            "alerts": [found.opened(whole) for found in evidence.values()],
            "heartbeats": [counted.get(service_id, 0) for service_id in splits],
        },
    )
    return len(written.all())


_WRITE = text(
    """
    INSERT INTO service_days AS d (service_id, day, up_s, down_s, unknown_s, alerts, heartbeats)
    SELECT service_id, :day, up_s, down_s, unknown_s, alerts, heartbeats
      FROM unnest(:service_id, :up_s, :down_s, :unknown_s, :alerts, :heartbeats)
        AS v (service_id, up_s, down_s, unknown_s, alerts, heartbeats)
    -- Heartbeats stay as they were counted.
    ON CONFLICT (service_id, day) DO UPDATE
       SET up_s = excluded.up_s, down_s = excluded.down_s, unknown_s = excluded.unknown_s, alerts = excluded.alerts
     WHERE (d.up_s, d.down_s, d.unknown_s, d.alerts)
           IS DISTINCT FROM (excluded.up_s, excluded.down_s, excluded.unknown_s, excluded.alerts)
 RETURNING d.service_id
    """
).bindparams(
    bindparam("day", type_=Date),
    bindparam("service_id", type_=ARRAY(BigInteger)),
    bindparam("up_s", type_=ARRAY(Integer)),
    bindparam("down_s", type_=ARRAY(Integer)),
    bindparam("unknown_s", type_=ARRAY(Integer)),
    bindparam("alerts", type_=ARRAY(Integer)),
    bindparam("heartbeats", type_=ARRAY(BigInteger)),
)


@dataclass(slots=True)
class _Evidence:
    """What is known of one service around a stretch of time."""

    began_at: datetime | None
    """Its first success; none yet: it is new."""
    paused: list[Interval] = field(default_factory=list)
    alerts: list[Interval] = field(default_factory=list)

    def split(self, whole: Interval, blind: Iterable[Interval]) -> Split:
        new = Interval(whole.start, self.began_at or whole.end)
        return split(whole, down=self.alerts, unknown=[new, *self.paused, *blind])

    def opened(self, whole: Interval) -> int:
        return sum(whole.start <= alert.start < whole.end for alert in self.alerts)


def _evidence(session: Session, service_ids: Sequence[int], whole: Interval) -> dict[int, _Evidence]:
    """By service; one that is deleted meanwhile is left out, the others stay until the transaction ends."""
    rows = session.execute(_SERVICES, {"ids": list(service_ids), "day": whole.start.date()}).all()
    # Who beat before the heartbeats that are kept began then at the latest; who never did is new.
    began: dict[int, datetime] = {
        row.id: row.created_at if row.has_beaten else row.last_success_at
        for row in rows
        if row.last_success_at is not None
    }
    searched = [row.id for row in rows if row.last_success_at is not None and not row.has_beaten]
    if searched:
        began |= dict(session.execute(_FIRST_SUCCESS, {"ids": searched, "history": HISTORY_AGE}).all())
    found = {row.id: _Evidence(began.get(row.id)) for row in rows}
    _add_pauses(session, rows, whole, found)
    for alert in session.execute(_ALERTS, {"ids": list(found), "start": whole.start, "end": whole.end}):
        found[alert.service_id].alerts.append(Interval(alert.opened_at, alert.resolved_at or whole.end))
    return found


# A row of an earlier day that was up says that it had begun, and saves the search among its heartbeats.
_SERVICES = text(
    """
    SELECT s.id, s.name, s.created_at, s.paused_at, t.last_success_at,
           EXISTS (SELECT 1 FROM service_days d WHERE d.service_id = s.id AND d.day < :day AND d.up_s > 0)
           AS has_beaten
      FROM services s JOIN service_states t ON t.service_id = s.id
     WHERE s.id = ANY(:ids) ORDER BY s.id FOR KEY SHARE OF s
    """
).bindparams(bindparam("ids", type_=ARRAY(BigInteger)), bindparam("day", type_=Date))

_FIRST_SUCCESS = text(
    """
    SELECT w.id, first.received_at
      FROM unnest(:ids) AS w (id)
     CROSS JOIN LATERAL (
        SELECT h.received_at FROM heartbeats h
         WHERE h.service_id = w.id AND h.kind IN ('ok', 'complete') AND coalesce(h.exit_code, 0) = 0
           AND h.received_at - h.event_at <= :history
         ORDER BY h.received_at LIMIT 1) first
    """
).bindparams(bindparam("ids", type_=ARRAY(BigInteger)))

_ALERTS = text(
    """
    SELECT service_id, opened_at, resolved_at FROM alerts
     WHERE service_id = ANY(:ids) AND opened_at < :end AND (resolved_at IS NULL OR resolved_at >= :start)
    """
).bindparams(bindparam("ids", type_=ARRAY(BigInteger)))

_HEARTBEATS = text(
    """
    SELECT service_id, count(*) FROM heartbeats
     WHERE service_id = ANY(:ids) AND received_at >= :start AND received_at < :end
     GROUP BY service_id
    """
).bindparams(bindparam("ids", type_=ARRAY(BigInteger)))


def _heartbeats(session: Session, service_ids: Sequence[int], whole: Interval) -> dict[int, int]:
    values = {"ids": list(service_ids), "start": whole.start, "end": whole.end}
    return dict(session.execute(_HEARTBEATS, values).all())


# The row of a service tells only since when it is paused now; each change is in the audit log, with its moment.
_CHANGES = text(
    """
    SELECT a.object_id AS name, a.at, coalesce(CAST(a.detail ->> 'paused' AS boolean), false) AS is_paused
      FROM audit_entries a
     WHERE a.object_kind = 'service' AND a.object_id = ANY(:names) AND a.at >= :start
       AND a.action IN ('service.create', 'service.change')
     ORDER BY a.object_id, a.id
    """
).bindparams(bindparam("names", type_=ARRAY(Text)))

_BEFORE = text(
    """
    SELECT w.name, before.is_paused
      FROM unnest(:names, :created) AS w (name, created_at)
     CROSS JOIN LATERAL (
        SELECT coalesce(CAST(a.detail ->> 'paused' AS boolean), false) AS is_paused
          FROM audit_entries a
         WHERE a.object_kind = 'service' AND a.object_id = w.name AND a.at < :start AND a.at >= w.created_at
           AND a.action IN ('service.create', 'service.change')
         ORDER BY a.id DESC LIMIT 1) before
    """
).bindparams(
    bindparam("names", type_=ARRAY(Text)), bindparam("created", type_=ARRAY(DateTime(timezone=True)))
)


def _add_pauses(
    session: Session, rows: Sequence[Row[Any]], whole: Interval, found: dict[int, _Evidence]
) -> None:
    changes: defaultdict[str, list[tuple[datetime, bool]]] = defaultdict(list)
    names = [row.name for row in rows]
    for change in session.execute(_CHANGES, {"names": names, "start": whole.start}):
        changes[change.name].append((change.at, change.is_paused))
    changed = [row for row in rows if row.name in changes]
    before: dict[str, bool] = {}
    if changed:
        values = {"names": [row.name for row in changed], "created": [row.created_at for row in changed]}
        before = dict(session.execute(_BEFORE, values | {"start": whole.start}).all())
    for row in rows:
        if row.name in changes:
            # Another service of this name may have been deleted earlier on.
            own = [change for change in changes[row.name] if change[0] >= row.created_at]
            found[row.id].paused = pauses(own, was_paused=before.get(row.name, False), whole=whole)
        elif row.paused_at is not None:
            found[row.id].paused = [Interval(row.paused_at, whole.end)]


def _date(moment: datetime) -> date:
    return moment.astimezone(UTC).date()
