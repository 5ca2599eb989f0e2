"""What people are told of the alerts that are open, and when next.

It runs in the transaction of the verdict.  A reason that is open and that nobody was told of is told as soon as
nothing keeps it back; so what a window, a mute or a failing parent held is told once when that is over, if it
still holds then.  After that the alert is told again each ``renotify_every``, and the next level of a route when nobody
acknowledged in time.  An acknowledged alert is told of new reasons only.  What no route is for stays to be told: the
hours of one may begin, or somebody makes one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from sqlalchemy import bindparam, select, text
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.orm import Session

from medic import alerts, outbox, routing
from medic.models.alerting import (
    Alert,
    AlertRoute,
    AlertTransition,
    Calendar,
    Route,
    RouteTarget,
    Target,
    Team,
)
from medic.models.monitoring import Service, ServiceState
from medic.outbox import Telling
from medic.routing import Hours, Way
from medic.suppression import Held, held_back
from medic.times import format_time

NOBODY = {"by": [{"kind": "no_route"}]}
"""Why nobody was told, when no route is for the alert."""

LOOK_FOR_ROUTE = timedelta(minutes=5)
"""How often an alert that nobody can be told of looks whether there is a route by now: nothing wakes it."""


@dataclass(frozen=True, slots=True)
class Open:
    """A service whose alert is open behind a verdict."""

    service: Service
    alert_id: int
    failures: int
    last_success_at: datetime | None


@dataclass(slots=True)
class Told:
    """``free``: ids of services that nothing holds back.  ``again``: by service, when to look once more."""

    free: set[int] = field(default_factory=set)
    again: dict[int, datetime] = field(default_factory=dict)
    count: int = 0

    def look(self, service_id: int, at: datetime | None) -> None:
        if at is not None:
            self.again[service_id] = min(at, self.again.get(service_id, at))


def tell(session: Session, standing: Sequence[Open], *, now: datetime) -> Told:
    """Put what is to be told into the outbox."""
    told = Told()
    if not standing:
        return told
    rows = {
        alert.id: alert
        for alert in session.scalars(
            # Locked, so that nobody acknowledges between the look and the telling: no message says what is not so.
            select(Alert)
            .where(Alert.id.in_([case.alert_id for case in standing]))
            .order_by(Alert.id)
            .with_for_update(key_share=True)
            .execution_options(populate_existing=True)
        )
    }
    detected = {case.service.id: rows[case.alert_id].detected_at for case in standing}
    held = held_back(session, [case.service for case in standing], detected, now=now)
    _keep_why(session, [(rows[case.alert_id], held.get(case.service.id)) for case in standing])
    for case in standing:
        kept = held.get(case.service.id)
        if kept is None:
            told.free.add(case.service.id)
        else:
            told.look(case.service.id, kept.until)
    free = [(case, rows[case.alert_id]) for case in standing if case.service.id in told.free]
    if free:
        _Round(session, free, told, now).run()
    return told


def escalate(
    session: Session, alert_id: int, *, text: str, evidence: dict[str, Any], now: datetime
) -> set[int] | None:
    """A playbook could not help: tell the next level of each route that the alert went out by, at once.

    It does not wait for `escalate_after`, and an acknowledgement does not keep it back; a window or a mute does.

    :param text: what the playbook came to.
    :returns: the targets that have something due now; nothing when the alert is not open.
    """
    row = session.execute(
        select(Alert, Service, ServiceState)
        .join(Service, Service.id == Alert.service_id)
        .join(ServiceState, ServiceState.service_id == Service.id)
        .where(Alert.id == alert_id, Alert.resolved_at.is_(None))
        .with_for_update(key_share=True, of=Alert)
        .execution_options(populate_existing=True)
    ).one_or_none()
    if row is None:
        return None
    alert, service, state = row
    if held_back(session, [service], {service.id: alert.detected_at}, now=now):
        return set()
    case = Open(service, alert.id, state.failures, state.last_success_at)
    return _Round(session, [(case, alert)], Told(), now).climb(case, alert, text, evidence)


class _Reached(NamedTuple):
    """How far an alert came by a route."""

    alert_id: int
    route_id: int
    level: int
    level_at: datetime


class _Round:
    """One batch of alerts that nothing holds back."""

    def __init__(
        self, session: Session, cases: Sequence[tuple[Open, Alert]], told: Told, now: datetime
    ) -> None:
        self.session = session
        self.cases = cases
        self.told = told
        self.now = now
        self.ways = ways(session)
        self.by_id = {way.id: way for way in self.ways}
        self.teams = dict(session.execute(select(Team.id, Team.name)).all()) if self.ways else {}
        self.levels = self._levels()
        self.tellings: list[Telling] = []
        self.reached: list[_Reached] = []
        self.asked: set[tuple[int, int]] = set()
        self.nobody: list[Alert] = []
        self.heard: set[int] = set()

    def run(self) -> None:
        self._tell_news()
        self._tell_again()
        self._escalate()
        outbox.tell(self.session, self.tellings, now=self.now)
        self.told.count += len(self.tellings)
        self._keep_levels()
        self._keep_told()
        for case, alert in self.cases:
            self._next_look(case, alert)

    def _levels(self) -> dict[int, dict[int, _Reached]]:
        """How far each alert came by each route."""
        found: dict[int, dict[int, _Reached]] = defaultdict(dict)
        ids = [alert.id for _, alert in self.cases if alert.told_at is not None]
        if ids:
            columns = AlertRoute.alert_id, AlertRoute.route_id, AlertRoute.level, AlertRoute.level_at
            for row in self.session.execute(select(*columns).where(AlertRoute.alert_id.in_(ids))):
                found[row.alert_id][row.route_id] = _Reached(*row)
        return found

    def _tell_news(self) -> None:
        """Reasons that nobody was told of."""
        news = [(case, alert) for case, alert in self.cases if set(alert.reasons) - set(alert.told)]
        transitions = _last_openings(self.session, [alert.id for _, alert in news])
        for case, alert in news:
            kind = "opened" if alert.told_at is None else "reason_joined"
            transition = transitions[alert.id]
            chosen = self._chosen(case, alert)
            if chosen:
                self._tell_by(chosen, case, alert, kind, transition, transition_reason(alert))
            else:
                self.nobody.append(alert)

    def _tell_again(self) -> None:
        """Each ``renotify_every``, as long as nobody acknowledged."""
        due = [
            (case, alert)
            for case, alert in self.cases
            if alert.id not in self.heard
            and (at := _renotify_at(case.service, alert)) is not None
            and at <= self.now
        ]
        ways = {alert.id: self._chosen(case, alert) for case, alert in due}
        recorded = self._record([(alert_id, "renotified", {}) for alert_id, chosen in ways.items() if chosen])
        for case, alert in due:
            if chosen := ways[alert.id]:
                self._tell_by(chosen, case, alert, "renotified", recorded[alert.id])

    def _chosen(self, case: Open, alert: Alert) -> list[tuple[Way, int]]:
        """The routes that tell of it, each up to a level: those that match now, and those that it went by before.

        Only those that have somebody to tell.
        """
        levels = self.levels[alert.id]
        matching = routing.ways_for(self.ways, self._subject(case, alert), self.now)
        # A route whose first level has nobody to tell starts with the first that has.
        found = {
            way.id: (way, level)
            for way in matching
            if way.id not in levels and (level := way.next_level(-1)) is not None
        }
        for route_id, row in levels.items():
            way = self.by_id.get(route_id)
            if way is not None and any(way.levels[: row.level + 1]):
                found[route_id] = (way, row.level)
        return list(found.values())

    def _tell_by(
        self,
        chosen: Sequence[tuple[Way, int]],
        case: Open,
        alert: Alert,
        kind: str,
        transition_id: int,
        reason: str | None = None,
    ) -> None:
        for way, level in chosen:
            if way.id not in self.levels[alert.id]:
                self._reach(alert.id, way.id, level)
            for told_level in range(level + 1):
                self._telling(case, alert, way, kind, transition_id, told_level, reason)
        self.heard.add(alert.id)

    def _escalate(self) -> None:
        """The next level of each route in which nobody acknowledged in time."""
        due: list[tuple[Open, Alert, list[tuple[Way, int]]]] = []
        for case, alert in self.cases:
            steps = []
            for route_id, row in self.levels[alert.id].items():
                way = self.by_id.get(route_id)
                at = _escalate_at(way, row, alert) if way else None
                if way is not None and at is not None and at <= self.now:
                    steps.append((way, way.next_level(row.level) or 0))
            if steps:
                due.append((case, alert, steps))
        recorded = self._record(
            [
                (alert.id, "escalated", {"routes": {way.name: level for way, level in steps}})
                for _, alert, steps in due
            ]
        )
        for case, alert, steps in due:
            for way, level in steps:
                self._telling(case, alert, way, "escalated", recorded[alert.id], level)
                self._reach(alert.id, way.id, level)

    def climb(self, case: Open, alert: Alert, text: str, evidence: dict[str, Any]) -> set[int]:
        """One level up in each route that it went out by; the last level is told once more."""
        went = self.levels[alert.id]
        steps = [
            (way, level if above is None else above)
            for way, level in self._chosen(case, alert)
            if way.id in went or not went
            for above in [way.next_level(level)]
        ]
        if not steps:
            return set()
        routes = {"routes": {way.name: level for way, level in steps}}
        recorded = self._record([(alert.id, "escalated", evidence | routes)])
        for way, level in steps:
            self._telling(case, alert, way, "escalated", recorded[alert.id], level, text=text)
            self._reach(alert.id, way.id, level)
        outbox.tell(self.session, self.tellings, now=self.now)
        self._keep_levels()
        return {telling.target_id for telling in self.tellings}

    def _telling(
        self,
        case: Open,
        alert: Alert,
        way: Way,
        kind: str,
        transition_id: int,
        level: int,
        reason: str | None = None,
        text: str | None = None,
    ) -> None:
        targets = way.told_at(level)
        more = {"reason": reason, "text": text}
        payload = {"alert": self._facts(case, alert)} | {key: word for key, word in more.items() if word}
        for position, target_id in enumerate(targets):
            if (transition_id, target_id) not in self.asked:  # it may stand in two levels, or in two routes
                self.asked.add((transition_id, target_id))
                self.tellings.append(
                    Telling(alert.id, transition_id, way.id, target_id, kind, level, position, payload)
                )

    def _reach(self, alert_id: int, route_id: int, level: int) -> None:
        row = _Reached(alert_id, route_id, level, self.now)
        self.levels[alert_id][route_id] = row
        self.reached.append(row)

    def _keep_levels(self) -> None:
        if self.reached:
            last = {(row.alert_id, row.route_id): row for row in self.reached}.values()
            self.session.execute(
                _REACH,
                {
                    "alert_id": [row.alert_id for row in last],
                    "route_id": [row.route_id for row in last],
                    "level": [row.level for row in last],
                    "now": self.now,
                },
            )

    def _keep_told(self) -> None:
        if self.heard:
            self.session.execute(_HEARD, {"alert_id": sorted(self.heard), "now": self.now})
        if self.nobody:
            self.session.execute(_NOBODY, {"alert_id": [alert.id for alert in self.nobody], "held": NOBODY})

    def _next_look(self, case: Open, alert: Alert) -> None:
        """When this alert is to be told once more, if nothing happens before."""
        told_at = self.now if alert.id in self.heard else alert.told_at
        renotify_at = _renotify_at(case.service, alert, told_at)
        nobody = set(alert.reasons) - set(alert.told) and alert.id not in self.heard
        if nobody or (renotify_at is not None and renotify_at <= self.now):
            self.told.look(case.service.id, self.now + LOOK_FOR_ROUTE)
        else:
            self.told.look(case.service.id, renotify_at)
        for route_id, row in self.levels[alert.id].items():
            if way := self.by_id.get(route_id):
                self.told.look(case.service.id, _escalate_at(way, row, alert))

    def _record(self, changes: Sequence[tuple[int, str, dict[str, Any]]]) -> dict[int, int]:
        turns = [
            alerts.Turn(alert_id, kind, None, self.now, evidence) for alert_id, kind, evidence in changes
        ]
        return alerts.record_all(self.session, turns, now=self.now)

    def _subject(self, case: Open, alert: Alert) -> routing.Failing:
        service = case.service
        return routing.Failing(
            service=service.name, priority=alert.priority, reasons=frozenset(alert.reasons),
            tags=frozenset(service.tags), team=self.teams.get(service.team_id or 0),
        )  # fmt: skip

    def _facts(self, case: Open, alert: Alert) -> dict[str, Any]:
        """The alert as a message tells of it; it stays as it was then."""
        service = case.service
        return {
            "id": alert.id,
            "service": service.name,
            "priority": alert.priority,
            "reasons": list(alert.reasons),
            "opened_at": format_time(alert.opened_at),
            "acknowledged_by": alert.acknowledged_by,
            "team": self.teams.get(service.team_id or 0),
            "tags": list(service.tags),
            "runbook_url": service.runbook_url,
            "failures": case.failures,
            "last_success_at": format_time(case.last_success_at) if case.last_success_at else None,
        }


def ways(session: Session) -> list[Way]:
    """The routes that are on, each with the targets that can be told, in their order."""
    targets: dict[int, dict[int, list[int]]] = defaultdict(lambda: defaultdict(list))
    rows = session.execute(
        select(RouteTarget.route_id, RouteTarget.level, RouteTarget.target_id)
        .join(Target, Target.id == RouteTarget.target_id)
        .where(Target.disabled_at.is_(None))
        .order_by(RouteTarget.route_id, RouteTarget.level, RouteTarget.position, RouteTarget.target_id)
    )
    for route_id, level, target_id in rows:
        targets[route_id][level].append(target_id)
    found = session.execute(
        select(Route, Calendar)
        .outerjoin(Calendar, Calendar.id == Route.calendar_id)
        .where(Route.enabled)
        .order_by(Route.position, Route.id)
    ).all()
    return [_way(route, calendar, targets[route.id]) for route, calendar in found]


def _way(route: Route, calendar: Calendar | None, targets: dict[int, list[int]]) -> Way:
    return Way(
        id=route.id,
        name=route.name,
        levels=tuple(tuple(targets.get(level, ())) for level in range(max(targets, default=-1) + 1)),
        match=route.match,
        is_default=route.is_default,
        period=route.period,  # type: ignore[arg-type] # a CHECK holds it
        calendar=Hours(calendar.hours, calendar.holidays, calendar.timezone) if calendar else None,
        mode=route.mode,  # type: ignore[arg-type]
        escalate_after=timedelta(seconds=route.escalate_after_s) if route.escalate_after_s else None,
    )


def _renotify_at(service: Service, alert: Alert, told_at: datetime | None = None) -> datetime | None:
    told_at = told_at or alert.told_at
    if told_at is None or not service.renotify_every_s or alert.acknowledged_at is not None:
        return None
    return told_at + timedelta(seconds=service.renotify_every_s)


def _escalate_at(way: Way, row: _Reached, alert: Alert) -> datetime | None:
    if way.escalate_after is None or alert.acknowledged_at is not None or way.next_level(row.level) is None:
        return None
    return row.level_at + way.escalate_after


def transition_reason(alert: Alert) -> str | None:
    """The newest reason that nobody was told of."""
    return next((reason for reason in reversed(alert.reasons) if reason not in alert.told), None)


def _last_openings(session: Session, alert_ids: Sequence[int]) -> dict[int, int]:
    """The newest transition of each alert that gave it a reason."""
    if not alert_ids:
        return {}
    rows = session.execute(
        select(AlertTransition.alert_id, AlertTransition.id)
        .where(AlertTransition.alert_id.in_(alert_ids), AlertTransition.kind.in_(["opened", "reason_joined"]))
        .order_by(AlertTransition.id)
    )
    return {row.alert_id: row.id for row in rows}


_HOLD = text(
    """
    UPDATE alerts a SET held = nullif(v.held, 'null'::jsonb)
      FROM unnest(CAST(:alert_id AS bigint[]), :held) AS v (alert_id, held)
     WHERE a.id = v.alert_id
    """
).bindparams(bindparam("held", type_=ARRAY(JSONB(none_as_null=False))))


_REACH = text(
    """
    INSERT INTO alert_routes (alert_id, route_id, level, level_at)
    SELECT alert_id, route_id, level, :now
      FROM unnest(CAST(:alert_id AS bigint[]), CAST(:route_id AS bigint[]), CAST(:level AS int[]))
        AS r (alert_id, route_id, level)
    ON CONFLICT (alert_id, route_id) DO UPDATE SET level = excluded.level, level_at = excluded.level_at
    """
)
_HEARD = text(
    "UPDATE alerts SET told = reasons, told_at = :now, held = NULL WHERE id = ANY(CAST(:alert_id AS bigint[]))"
)
_NOBODY = text(
    "UPDATE alerts SET held = :held WHERE id = ANY(CAST(:alert_id AS bigint[])) AND held IS DISTINCT FROM :held"
).bindparams(bindparam("held", type_=JSONB))


def _keep_why(session: Session, cases: Sequence[tuple[Alert, Held | None]]) -> None:
    """What keeps an alert back stands on it, so that `explain` can say why nobody was told."""
    changed = []
    for alert, held in cases:
        by = (
            {"by": list(held.by)}
            if held is not None
            else (NOBODY if alert.held == NOBODY and set(alert.reasons) - set(alert.told) else None)
        )
        if by != alert.held:
            changed.append((alert.id, by))
    if changed:
        session.execute(
            _HOLD, {"alert_id": [alert_id for alert_id, _ in changed], "held": [by for _, by in changed]}
        )
