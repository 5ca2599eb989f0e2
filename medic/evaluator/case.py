"""One call's working copy: the state so far, the transitions so far, and how a reason comes and goes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from medic.evaluator.values import (
    Change,
    Interval,
    OpenRun,
    Policy,
    Reason,
    RunChange,
    RunMark,
    State,
    Transition,
)
from medic.times import format_time

_MAX_EVIDENCE_INTERVALS = 20


@dataclass(slots=True)
class Case:
    policy: Policy
    state: State
    """This call's own copy, written in place."""
    blind: tuple[Interval, ...]
    """Merged, sorted, none beyond the call's `now`."""
    time: datetime
    """Judged up to here."""
    open_runs: list[OpenRun] = field(default_factory=list)
    closed_run_ids: set[str] = field(default_factory=set)
    marks: dict[str, RunMark] = field(default_factory=dict)
    window: list[datetime] = field(default_factory=list)
    """`at_least`: event times of the successes known, sorted."""
    transitions: list[Transition] = field(default_factory=list)
    run_changes: list[RunChange] = field(default_factory=list)

    @property
    def anchor(self) -> datetime:
        """Where the present silence began: the last success, or a later fresh start."""
        last = self.state.last_success_at
        return self.state.base_at if last is None else max(self.state.base_at, last)

    def is_open(self, reason: Reason) -> bool:
        return getattr(self.state, f"{reason.value}_since") is not None

    def is_blind(self, start: datetime, end: datetime) -> bool:
        """Whether Medic could not hear at some time between `start` and `end`."""
        return any(gap.start < end and gap.end > start for gap in self.blind)

    def count(
        self, reason: Reason, number: int, finding: Callable[[int], tuple[datetime, dict[str, Any]]]
    ) -> None:
        """Add `number` misses or failures to the counter; the one that reaches the threshold opens.

        `finding(i)` says of the i-th of them (from 0) when it became true, and why.
        """
        before = self.state.failures
        self.state.failures = before + number
        self.state.successes = 0
        level = self.policy.failure_threshold
        if self.state.held_from is not None:
            level += self.state.held_from
        crossing = max(level - before, 1)
        if crossing > number or self.is_open(reason):
            return
        if self.state.last_success_at is None and reason is not Reason.FAILED:
            if self.state.new_alerted:
                return
            self.state.new_alerted = True
        at, evidence = finding(crossing - 1)
        self.add(reason, at, {**evidence, "failures": before + crossing})

    def add(self, reason: Reason, at: datetime, evidence: dict[str, Any]) -> None:
        """Open the alert for `reason`, or let it join the open one."""
        kind = Change.REASON_JOINED if self.state.reasons else Change.OPENED
        at = self._dated(at)
        self._emit(kind, reason, at, evidence)
        self._set(reason, at)
        self.state.held_from = None
        self.state.changed_at = at

    def clear(self, reasons: Iterable[Reason], at: datetime, evidence: dict[str, Any]) -> None:
        """End those of `reasons` that are open; the alert is resolved with the last one."""
        for reason in reasons:
            if not self.is_open(reason):
                continue
            at = self._dated(at)
            self._set(reason, None)
            self.state.changed_at = at
            kind = Change.REASON_CLEARED if self.state.reasons else Change.RESOLVED
            self._emit(kind, reason, at, evidence)

    def pause(self, at: datetime) -> None:
        """Close the open alert, if any, because the service is paused."""
        if self.state.reasons:
            at = self._dated(at)
            self._emit(Change.RESOLVED, Reason.PAUSED, at, {"because": "paused"})
            for reason, _ in self.state.reasons:
                self._set(reason, None)
            self.state.changed_at = at

    def _set(self, reason: Reason, at: datetime | None) -> None:
        setattr(self.state, f"{reason.value}_since", at)

    def _dated(self, at: datetime) -> datetime:
        return at if self.state.changed_at is None else max(at, self.state.changed_at)

    def _emit(self, kind: Change, reason: Reason, at: datetime, evidence: dict[str, Any]) -> None:
        last = self.state.last_success_at
        cut = [Interval(gap.start, min(gap.end, at)) for gap in self.blind if gap.start < at]
        looked_at = [gap for gap in cut if last is None or gap.end > last]
        common = {
            "policy_version": self.policy.version,
            "last_success_at": None if last is None else format_time(last),
            "failures": self.state.failures,
            "blind": [
                [format_time(gap.start), format_time(gap.end)] for gap in looked_at[-_MAX_EVIDENCE_INTERVALS:]
            ],
        }
        self.transitions.append(Transition(kind, reason, at, common | evidence))


def merged(blind: Sequence[Interval], now: datetime) -> tuple[Interval, ...]:
    """Sorted, overlaps joined, cut at `now`."""
    result: list[Interval] = []
    for gap in sorted(blind):
        start, end = gap.start, min(gap.end, now)
        if end <= start:
            continue
        if result and start <= result[-1].end:
            result[-1] = Interval(result[-1].start, max(end, result[-1].end))
        else:
            result.append(Interval(start, end))
    return tuple(result)
