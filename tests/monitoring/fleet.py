"""Services of one test on the real database, and a clock that the test turns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Engine, text

from medic import audit, heartbeats, playbooks, services
from medic.db import in_transaction, transaction
from medic.heartbeats import Signal, Watched, Written
from medic.playbook.grammar import parse
from medic.service_policy import Policy
from medic.steps import load_types
from medic.sweep import Swept, sweep_batch
from medic.times import MAX_DURATION

ACTOR = audit.Actor("shell", "test")
T0 = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
"""Today's midnight: the days from here on have partitions."""


def at(seconds: float) -> datetime:
    return T0 + timedelta(seconds=seconds)


@dataclass
class Fleet:
    engine: Engine
    watched: dict[str, Watched] = field(default_factory=dict)

    def service(self, name: str = "web", *, when: float = 0, paused: bool = False, **policy: Any) -> int:
        """Make a service `when` seconds after T0; `every` 60 s with a grace of 10 s unless told otherwise."""
        if not policy.keys() & {"every_s", "cron", "on_calendar", "at_least"}:
            policy["every_s"] = 60
        chosen = Policy(**{"grace_s": 10, **policy})
        made = in_transaction(
            self.engine,
            lambda s: (
                services.create(s, name=name, policy=chosen, actor=ACTOR, now=at(when), paused=paused).id
            ),
        )
        self.refresh(name)
        return made

    def refresh(self, name: str) -> None:
        """Know the service as ingest does, at its policy of now."""
        with transaction(self.engine) as session:
            self.watched |= heartbeats.watched(session, [name])

    def change(self, name: str, *, when: float, paused: bool | None = None, **policy: Any) -> None:
        chosen = Policy(**{"grace_s": 10, **policy})
        in_transaction(
            self.engine,
            lambda s: services.change(s, name=name, policy=chosen, actor=ACTOR, now=at(when), paused=paused),
        )
        self.refresh(name)

    def signal(self, name: str, kind: str = "ok", *, late: float = 0, **rest: Any) -> Signal:
        return Signal(self.watched[name], kind, late, **rest)

    def beat(self, name: str, kind: str = "ok", *, when: float, late: float = 0, **rest: Any) -> Written:
        """A signal of `when` that arrives `late` seconds afterwards, through the real ingest."""
        return self.write([self.signal(name, kind, late=late, **rest)], when=when + late)[0]

    def write(self, signals: Sequence[Signal], *, when: float | None = None) -> list[Written]:
        now = None if when is None else at(when)
        return in_transaction(self.engine, lambda s: heartbeats.write(s, signals, now=now))

    def sweep(self, when: float) -> Swept:
        return in_transaction(self.engine, lambda s: sweep_batch(s, now=at(when)))

    def sweep_until(self, end: float, *, since: float, step: float) -> None:
        moment = since
        while moment <= end:
            self.sweep(moment)
            moment += step

    def next_due(self) -> float | None:
        found = self.rows("SELECT min(due_at) AS due FROM service_states")[0]["due"]
        return None if found is None else (found - T0).total_seconds()

    def playbook(self, name: str = "fix", *, steps: str = "", **trigger: Any) -> None:
        """Store a playbook of one wait, with a trigger of its own if any is given."""
        own = "".join(f"  {key}: {value}\n" for key, value in trigger.items())
        source = f"name: {name}\n" + (f"trigger:\n{own}" if own else "")
        source += steps or "steps:\n  - {name: pause, type: wait, duration: 1m}\n"
        parsed = parse(source, load_types(), longest_step=MAX_DURATION)
        in_transaction(
            self.engine,
            lambda s: playbooks.put(s, name=name, source=source, parsed=parsed, actor=ACTOR, now=T0),
        )

    def state(self, name: str = "web") -> dict[str, Any]:
        return self.rows(
            "SELECT t.* FROM service_states t JOIN services s ON s.id = t.service_id WHERE s.name = :name",
            name=name,
        )[0]

    def due(self, name: str = "web") -> float | None:
        due_at = self.state(name)["due_at"]
        return None if due_at is None else (due_at - T0).total_seconds()

    def alerts(self, name: str | None = None) -> list[dict[str, Any]]:
        return self.rows(
            "SELECT * FROM alerts WHERE service_name = coalesce(:name, service_name) ORDER BY id", name=name
        )

    def story(self, name: str | None = None) -> list[tuple[str, str | None, float]]:
        """Every transition: its kind, its reason, and when it became true, in seconds after T0."""
        return [
            (row["kind"], row["reason"], (row["at"] - T0).total_seconds())
            for row in self.rows(
                "SELECT t.* FROM alert_transitions t JOIN alerts a ON a.id = t.alert_id"
                " WHERE a.service_name = coalesce(:name, a.service_name) ORDER BY t.id",
                name=name,
            )
        ]

    def executions(self) -> list[dict[str, Any]]:
        return self.rows("SELECT * FROM executions ORDER BY created_at, id")

    def audit(self, action: str) -> list[dict[str, Any]]:
        return self.rows("SELECT * FROM audit_entries WHERE action = :action ORDER BY id", action=action)

    def rows(self, sql: str, **values: Any) -> list[dict[str, Any]]:
        with self.engine.connect() as connection:
            return [dict(row) for row in connection.execute(text(sql), values).mappings()]

    def run(self, sql: str, **values: Any) -> None:
        with self.engine.begin() as connection:
            connection.execute(text(sql), values)
