"""Runs histories through the real ingest and the real sweep, at moments of its own.

Nothing is asked at a moment at which nothing arrives, changes, or is due; so a year costs what happens in it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from heapq import merge
from itertools import groupby
from uuid import uuid4

from sqlalchemy import Connection, Engine, text
from sqlalchemy.orm import Session

from medic import audit, heartbeats, partitions, services
from medic.db import in_transaction
from medic.heartbeats import Signal, Watched
from medic.service_policy import Policy
from medic.sweep import batch, sweep_batch
from tests.year.clock import DAY, SECOND, micros, moment
from tests.year.history import History, Span, Step
from tests.year.oracle import Beat

Sweep = Callable[[datetime], None]
"""Judges whatever is due at a moment, until nothing is left."""
Today = Callable[[date], None]

ACTOR = audit.Actor("shell", "year")
_DUE = text("SELECT min(due_at) FROM service_states")
KEEP_DAYS = 30
DAYS_AHEAD = 1


@dataclass
class Simulation:
    """:param set_today: says which day it is to what makes and drops partitions."""

    engine: Engine
    span: Span
    histories: Sequence[History]
    sweep: Sweep
    set_today: Today
    watched: dict[str, Watched] = field(default_factory=dict)
    sweeps: int = 0
    written: int = 0
    _watch: Connection = field(init=False)

    def run(self) -> None:
        with self.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as self._watch:
            self._live()

    def _live(self) -> None:
        self._prepare()
        day, due = 0, self.span.start
        arrivals = groupby(self._arrivals(), key=lambda one: self._tick(one[0].arrival))
        steps = groupby(self._steps(), key=lambda one: one[1].at)
        heard, changed = next(arrivals, None), next(steps, None)
        at = self.span.start
        while True:
            if at // DAY != day:
                day = at // DAY
                self._begin_day(moment(at))
            if heard is not None and heard[0] == at:
                self._write(list(heard[1]))
                heard = next(arrivals, None)
            if at >= self._sweep_at(at):
                self.sweep(moment(at))
                self.sweeps += 1
            if changed is not None and changed[0] == at:
                self._change(list(changed[1]))
                changed = next(steps, None)
            if at == self.span.end:
                return
            # What is due by now is due again at the next tick: this one took all that was due before it.
            due = max(self._next_due(), at + self.span.tick)
            upcoming = [one[0] for one in (heard, changed) if one is not None]
            at = min(self._sweep_at(due), *upcoming, self.span.end)

    def _prepare(self) -> None:
        """A process of ingest heard before the outage, another one after it; a target and its route."""
        span = self.span
        target = "INSERT INTO targets (name, kind) VALUES ('all', 'webhook') RETURNING id"
        route = "INSERT INTO routes (name, is_default) VALUES ('default', true) RETURNING id"
        with self.engine.begin() as connection:
            for since, until in ((span.start - DAY, span.deaf[0]), (span.deaf[1], span.end + DAY)):
                connection.execute(
                    text("INSERT INTO coverage (process, since, until) VALUES (:process, :since, :until)"),
                    {"process": uuid4(), "since": moment(since), "until": moment(until)},
                )
            connection.execute(
                text("INSERT INTO route_targets (route_id, target_id) VALUES (:route, :target)"),
                {
                    "target": connection.execute(text(target)).scalar_one(),
                    "route": connection.execute(text(route)).scalar_one(),
                },
            )

    def _begin_day(self, at: datetime) -> None:
        """The partitions, as housekeeping keeps them."""
        self.set_today(at.date())

        def keep(session: Session) -> None:
            connection: Connection = session.connection()
            partitions.make_partitions(connection, ahead=DAYS_AHEAD)
            partitions.drop_partitions(connection, keep_days=KEEP_DAYS)

        in_transaction(self.engine, keep)

    def _tick(self, at: int) -> int:
        return -(-at // self.span.tick) * self.span.tick

    def _arrivals(self) -> Iterator[tuple[Beat, str]]:
        """All signals of all services, in the order of their arrival."""

        def own(history: History) -> Iterator[tuple[Beat, str]]:
            return ((beat, history.name) for beat in history.beats)

        return merge(*(own(history) for history in self.histories), key=lambda one: one[0].arrival)

    def _steps(self) -> list[tuple[History, Step]]:
        steps = [(history, step) for history in self.histories for step in history.steps]
        return sorted(steps, key=lambda one: one[1].at)

    def _write(self, signals: Sequence[tuple[Beat, str]]) -> None:
        """What arrived within a tick, each at its own moment."""

        def work(session: Session) -> list[str]:
            stale: list[str] = []
            for arrival, group in groupby(signals, key=lambda one: one[0].arrival):
                sent = [(name, self._signal(beat, name)) for beat, name in group]
                written = heartbeats.write(session, [signal for _, signal in sent], now=moment(arrival))
                stale += [name for (name, _), done in zip(sent, written, strict=True) if not done.is_current]
            return stale

        stale = in_transaction(self.engine, work)
        self.written += len(signals)
        if stale:
            in_transaction(self.engine, lambda s: self.watched.update(heartbeats.watched(s, stale)))

    def _next_due(self) -> int:
        due: datetime | None = self._watch.execute(_DUE).scalar()
        return self.span.end if due is None else self._tick(micros(due))

    def _sweep_at(self, at: int) -> int:
        """The first tick at or behind this one at which a sweep runs."""
        down = (self.span.deaf, self.span.unswept)
        return next((end for start, end in down if start < at < end), at)

    def _signal(self, beat: Beat, name: str) -> Signal:
        return Signal(
            self.watched[name], beat.kind, beat.age / SECOND, beat.run_id, exit_code=beat.exit_code,
            client_id=beat.client_id,
        )  # fmt: skip

    def _change(self, steps: Sequence[tuple[History, Step]]) -> None:
        """Services are made, changed, paused and resumed."""
        now = moment(steps[0][1].at)

        def work(session: Session) -> None:
            for history, step in steps:
                policy, paused = Policy(**step.fields), step.plan.paused
                if step is not history.steps[0]:
                    services.change(
                        session, name=history.name, policy=policy, actor=ACTOR, now=now, paused=paused
                    )
                    continue
                made = services.create(session, name=history.name, policy=policy, actor=ACTOR, now=now)
                if history.refused is not None:
                    since, until = history.refused
                    session.execute(
                        text("INSERT INTO refusals (service_id, kind, since, until, count)"
                             " VALUES (:id, 'limit', :since, :until, 1)"),
                        {"id": made.id, "since": moment(since), "until": moment(until)},
                    )  # fmt: skip
            # Of a change, ingest hears with the first heartbeat behind it.
            names = [history.name for history, step in steps if step is history.steps[0]]
            self.watched |= heartbeats.watched(session, names)

        in_transaction(self.engine, work)


def sweep_all(engine: Engine, at: datetime) -> int:
    """Judge whatever is due at this moment, batch by batch; returns how many services that were."""
    checked = 0
    while True:
        swept = in_transaction(engine, lambda session: sweep_batch(session, now=at))
        assert swept.set_aside == 0
        checked += swept.checked
        if swept.checked < batch.BATCH:
            return checked


def one_sweeper(engine: Engine) -> Sweep:
    def sweep(at: datetime) -> None:
        sweep_all(engine, at)

    return sweep
