"""What the database holds, against what the oracle says of the same histories."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from sqlalchemy import Engine, text

from tests.year.clock import micros, moment
from tests.year.history import History, Span
from tests.year.oracle import Change, Oracle

Story = list[tuple[str, str | None, int]]
SHOWN = 5

_TRANSITIONS = text(
    """
    SELECT a.service_name, t.kind, t.reason, t.at
      FROM alert_transitions t JOIN alerts a ON a.id = t.alert_id ORDER BY t.id
    """
)
_ALERTS = text(
    """
    SELECT a.service_name, a.opened_at, a.detected_at, a.resolved_at, a.told_at,
           (SELECT t.reason FROM alert_transitions t WHERE t.alert_id = a.id AND t.kind = 'opened') AS reason,
           (SELECT t.recorded_at FROM alert_transitions t WHERE t.alert_id = a.id AND t.kind = 'resolved') AS ended_at,
           count(d.id) FILTER (WHERE d.kind = 'opened') AS openings,
           count(d.id) FILTER (WHERE d.kind = 'resolved') AS resolutions
      FROM alerts a LEFT JOIN deliveries d ON d.alert_id = a.id
     GROUP BY a.id ORDER BY a.service_name, a.id
    """
)


@dataclass
class Comparison:
    """:param problems: what differs, service by service."""

    alerts: int = 0
    false: int = 0
    missed: int = 0
    told: int = 0
    problems: list[str] = field(default_factory=list)

    def summary(self) -> str:
        return f"{self.alerts} alerts, {self.false} false, {self.missed} missed; {self.told} told of"


def compare(engine: Engine, span: Span, histories: Sequence[History]) -> Comparison:
    found = Comparison()
    stories = _stories(engine)
    for history in histories:
        expected = _expected(history, span)
        wanted, stored = _plain(expected), stories.get(history.name, [])
        _count_alerts(wanted, stored, found)
        if wanted != stored:
            found.problems.append(_difference(history, wanted, stored))
    _look_at_alerts(engine, span, found)
    return found


def blind_of(history: History, span: Span) -> list[tuple[int, int]]:
    """When this service could not be heard: in the outage, and while it was refused (the last of it too)."""
    blind = [span.deaf]
    if history.refused is not None:
        blind.append((history.refused[0], history.refused[1] + 1))
    joined: list[tuple[int, int]] = []
    for start, end in sorted(blind):
        if joined and start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((start, end))
    return joined


def _expected(history: History, span: Span) -> list[Change]:
    plans = [step.plan for step in history.steps]
    return Oracle(plans, history.beats, blind_of(history, span), span.end).story


def _plain(story: Sequence[Change]) -> Story:
    return [(kind, None if kind == "resolved" else reason, at) for kind, reason, at in story]


def _stories(engine: Engine) -> dict[str, Story]:
    stories: dict[str, Story] = defaultdict(list)
    with engine.connect() as connection:
        for name, kind, reason, at in connection.execute(_TRANSITIONS):
            stories[name].append((kind, reason, micros(at)))
    return stories


def _count_alerts(wanted: Story, stored: Story, found: Comparison) -> None:
    """False: opened at a moment at which none should have; missed: the other way around."""
    should = {at for kind, _, at in wanted if kind == "opened"}
    did = {at for kind, _, at in stored if kind == "opened"}
    found.alerts += len(did)
    found.false += len(did - should)
    found.missed += len(should - did)


def _difference(history: History, wanted: Story, stored: Story) -> str:
    first = next(
        (n for n, pair in enumerate(zip(wanted, stored, strict=False)) if pair[0] != pair[1]),
        min(len(wanted), len(stored)),
    )
    lines = [f"{history.name} differs at transition {first}"]
    for title, story in (("oracle", wanted), ("Medic", stored)):
        lines += [
            f"  {title}: {kind} {reason or ''} {moment(at)}"
            for kind, reason, at in story[max(first - 1, 0) : first + 2]
        ]
    at = min(at for _, _, at in [*wanted[first : first + 1], *stored[first : first + 1]])
    lines += [f"  policy from {moment(s.at)}: {s.fields} paused={s.plan.paused}" for s in history.steps]
    heard = [beat for beat in history.beats if beat.arrival <= at + 3600 * 10**6]
    lines += [f"  heard {moment(beat.arrival)}, of {moment(beat.event)}: {beat}" for beat in heard[-8:]]
    return "\n".join(lines)


def _look_at_alerts(engine: Engine, span: Span, found: Comparison) -> None:
    """One alert at a time is open; each was seen in time, and told once when it began and once when it ended."""
    last: dict[str, int] = {}
    with engine.connect() as connection:
        rows = connection.execute(_ALERTS).all()
    for row in rows:
        opened, detected = micros(row.opened_at), micros(row.detected_at)
        which = f"{row.service_name}, alert of {row.opened_at}"
        if opened < last.get(row.service_name, 0):
            found.problems.append(f"{which}: another one is open")
        last[row.service_name] = micros(row.resolved_at) if row.resolved_at else span.end + 1
        if row.reason == "missed" and detected != _sweep_behind(opened, span):
            found.problems.append(f"{which}: seen at {row.detected_at}")
        # What was over before Medic could look is kept, and told to nobody.
        is_told = row.ended_at is None or row.ended_at > row.detected_at
        found.told += is_told
        should = (1, 1 if row.resolved_at else 0) if is_told else (0, 0)
        if (row.openings, row.resolutions) != should:
            found.problems.append(f"{which}: {row.openings} openings and {row.resolutions} resolutions told")


def _sweep_behind(at: int, span: Span) -> int:
    """The first sweep at or after this moment."""
    tick = -(-at // span.tick) * span.tick
    return next((end for start, end in (span.deaf, span.unswept) if start < tick < end), tick)
