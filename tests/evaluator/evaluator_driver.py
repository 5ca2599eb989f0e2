"""Drives the evaluator as the sweep does: keeps the state, the open runs and the signals."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from medic.evaluator import (
    Interval,
    Kind,
    OpenRun,
    Policy,
    RunChange,
    RunEvent,
    Signal,
    State,
    Transition,
    Verdict,
    carry,
    evaluate,
    first_state,
    restore,
)
from medic.schedule import Every, Schedule

T0 = datetime(2026, 3, 2, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return T0 + timedelta(seconds=seconds)


def span(seconds: float) -> timedelta:
    return timedelta(seconds=seconds)


def seconds(moment: datetime | None) -> float | None:
    return None if moment is None else (moment - T0).total_seconds()


def policy(schedule: Schedule | int, grace: float = 0, **rest: object) -> Policy:
    chosen = Every(span(schedule)) if isinstance(schedule, int) else schedule
    return replace(Policy(1, chosen, span(grace), T0), **rest)  # type: ignore[arg-type]


@dataclass
class Watch:
    """One service.  `heard` are all signals ever; `tick` hands over what has arrived."""

    policy: Policy
    blind: list[Interval] = field(default_factory=list)
    heard: list[Signal] = field(default_factory=list)
    transitions: list[Transition] = field(default_factory=list)
    run_changes: list[RunChange] = field(default_factory=list)
    runs: list[OpenRun] = field(default_factory=list)
    verdict: Verdict | None = None

    def __post_init__(self) -> None:
        self.state: State = first_state(self.policy)

    def hear(self, kind: str, when: float, *, late: float = 0, **rest: object) -> Watch:
        """A signal of `when` that arrives `late` seconds afterwards."""
        signal = Signal(
            len(self.heard) + 1,
            Kind(kind),
            at(when),
            at(when + late),
            is_history=late > 60,
            **rest,  # type: ignore[arg-type]
        )
        self.heard.append(signal)
        return self

    def tick(self, when: float) -> Watch:
        now = at(when)
        carried = carry(self.state)
        columns = {
            name: getattr(self.state, name)
            for name in ("policy_version", "last_success_at", "failures", "successes", "folded_id")
        }
        assert restore(carried, status=self.state.status.value, **columns) == self.state
        signals = [signal for signal in self.heard if signal.received_at <= now]
        verdict = evaluate(self.policy, self.state, signals, self.runs, self.blind, now)
        self.verdict, self.state = verdict, verdict.state
        self.transitions += verdict.transitions
        for change in verdict.runs:
            self.run_changes.append(change)
            self._store(change)
        return self

    def _store(self, change: RunChange) -> None:
        if change.event is RunEvent.STARTED:
            self.runs.append(replace(change.run, id=len(self.runs) + 1))
        elif change.event is RunEvent.UNPAIRED:
            self.runs.append(replace(change.run, ended_at=change.at))
        elif change.event is not RunEvent.OVERRUN:
            self.runs = [
                replace(run, ended_at=change.at)
                if run.key == change.run.key and run.ended_at is None
                else run
                for run in self.runs
            ]

    @property
    def story(self) -> list[tuple[str, str, float | None]]:
        return [(t.kind.value, t.reason.value, seconds(t.at)) for t in self.transitions]

    @property
    def run_story(self) -> list[tuple[str, float | None]]:
        return [(change.event.value, seconds(change.at)) for change in self.run_changes]
