"""What goes into the evaluator and what comes out: frozen values, UTC-aware datetimes."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from medic.schedule import Schedule


class Status(StrEnum):
    NEW = "new"
    UP = "up"
    LATE = "late"
    DOWN = "down"
    PAUSED = "paused"


class Kind(StrEnum):
    OK = "ok"
    COMPLETE = "complete"
    FAIL = "fail"
    START = "start"
    LOG = "log"


class Reason(StrEnum):
    MISSED = "missed"
    FAILED = "failed"
    OVERRUN = "overrun"
    TOO_FEW = "too_few"
    PAUSED = "paused"
    """Only on a `resolved`: the alert closed because the service was paused."""


class Change(StrEnum):
    OPENED = "opened"
    REASON_JOINED = "reason_joined"
    REASON_CLEARED = "reason_cleared"
    RESOLVED = "resolved"


class RunEvent(StrEnum):
    STARTED = "started"
    COMPLETED = "completed"
    FAILED = "failed"
    LOST = "lost"
    OVERRUN = "overrun"
    UNPAIRED = "unpaired"
    """An end with a `run_id` whose start was not heard; a start that comes later opens nothing."""


@dataclass(frozen=True, slots=True)
class Policy:
    """What is expected of a service.

    `started_at` is when the fields here came into force; an edit of name or tags keeps it, so that
    frequent edits cannot postpone a deadline for ever.
    """

    version: int
    schedule: Schedule
    grace: timedelta
    started_at: datetime
    max_runtime: timedelta | None = None
    failure_threshold: int = 1
    recovery_threshold: int = 1
    paused: bool = False


@dataclass(frozen=True, slots=True)
class Signal:
    """One stored heartbeat.  `id` grows in commit order within a service; `is_history`: older than 60 s."""

    id: int
    kind: Kind
    event_at: datetime
    received_at: datetime
    run_id: str | None = None
    exit_code: int | None = None
    is_history: bool = False

    @property
    def is_success(self) -> bool:
        return self.kind in {Kind.OK, Kind.COMPLETE} and not self.exit_code

    @property
    def is_failure(self) -> bool:
        return self.kind is Kind.FAIL or (self.kind in {Kind.OK, Kind.COMPLETE} and bool(self.exit_code))


@dataclass(frozen=True, slots=True)
class OpenRun:
    """A run as stored.  `id` is None for one that this call opened; `ended_at` is set on a closed one
    that is given only so that a late start with its `run_id` does not open it again.
    """

    id: int | None
    run_id: str | None
    started_at: datetime
    ended_at: datetime | None = None

    @property
    def key(self) -> str:
        return self.run_id if self.run_id is not None else f"@{self.started_at.isoformat()}"


@dataclass(frozen=True, slots=True)
class RunMark:
    """What the evaluator remembers of an open run; `key` is `OpenRun.key`."""

    key: str
    later_successes: int = 0
    overrun: bool = False


@dataclass(frozen=True, slots=True, order=True)
class Interval:
    """From `start` to `end`."""

    start: datetime
    end: datetime


@dataclass(slots=True)
class State:
    """What is kept of a service from call to call.  `columns.py` writes it to the row and back.

    Not frozen, for speed: a call works on a copy of its own and never alters the one it was given.
    """

    status: Status
    policy_version: int
    started_at: datetime
    """`Policy.started_at` as last applied."""
    base_at: datetime
    """Where the schedule last started afresh: policy, failure, end of a blind interval."""
    folded_until: datetime
    """Time is judged up to here; a signal that arrived earlier and is seen later counts from here."""
    folded_id: int = 0
    """The cursor: signals up to this id are folded in."""
    judged_until: datetime | None = None
    """Every deadline up to here is judged or settled."""
    last_success_at: datetime | None = None
    """Event time of the newest success that was no history."""
    last_failure_at: datetime | None = None
    last_signal_at: datetime | None = None
    last_end_at: datetime | None = None
    """Event time of the newest complete or fail without a run_id."""
    history_at: datetime | None = None
    """Event time of the newest success among history."""
    failures: int = 0
    """Misses and failures in a row."""
    misses: int = 0
    """The misses among them since `base_at`."""
    missed_at: datetime | None = None
    """The last deadline that was missed, until the next final signal."""
    failed_for: datetime | None = None
    """The calendar occurrence that was last counted as failed."""
    short_since: datetime | None = None
    """`at_least`: since when fewer than N."""
    successes: int = 0
    """Successes in a row toward recovery; 0 when there is nothing to recover from."""
    missed_since: datetime | None = None
    failed_since: datetime | None = None
    overrun_since: datetime | None = None
    too_few_since: datetime | None = None
    held_from: int | None = None
    """Resolved by hand: the counter at that moment."""
    new_alerted: bool = False
    """The one alert of a service that never beat was raised."""
    changed_at: datetime | None = None
    """When the last transition became true; a later one is never dated before it."""
    marks: tuple[RunMark, ...] = ()

    @property
    def reasons(self) -> tuple[tuple[Reason, datetime], ...]:
        """The open alert's reasons with the moment each became true; empty: no alert."""
        pairs = (
            (Reason.MISSED, self.missed_since),
            (Reason.FAILED, self.failed_since),
            (Reason.OVERRUN, self.overrun_since),
            (Reason.TOO_FEW, self.too_few_since),
        )
        return tuple((reason, at) for reason, at in pairs if at is not None)


@dataclass(frozen=True, slots=True)
class Transition:
    """A change of the alert.  `at` is when it became true; `evidence` is JSON-able."""

    kind: Change
    reason: Reason
    at: datetime
    evidence: dict[str, Any]


@dataclass(frozen=True, slots=True)
class RunChange:
    """What happened to a run, and when (event time).  `signal_id`: the signal that did it."""

    event: RunEvent
    run: OpenRun
    at: datetime
    signal_id: int | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """`due_at`: the next moment at which this can change without a new signal; None when never."""

    state: State
    transitions: tuple[Transition, ...]
    runs: tuple[RunChange, ...]
    due_at: datetime | None
    quiet: bool

    @property
    def lost_runs(self) -> tuple[RunChange, ...]:
        return tuple(change for change in self.runs if change.event is RunEvent.LOST)
