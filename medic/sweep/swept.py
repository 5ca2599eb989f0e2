"""What a sweep did."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from uuid import UUID


@dataclass(slots=True)
class Swept:
    """Counts of one sweep; ``told`` messages wait in the outbox, and ``started`` are executions to
    dispatch, now that it is committed.  ``openings``: the priority of each alert that opened, and how long it was true
    before it was seen.
    """

    checked: int = 0
    openings: list[tuple[str, timedelta]] = field(default_factory=list)
    resolved: int = 0
    told: int = 0
    set_aside: int = 0
    lag: timedelta = timedelta(0)
    started: list[UUID] = field(default_factory=list)

    @property
    def opened(self) -> int:
        return len(self.openings)

    def add(self, other: Swept) -> None:
        self.checked += other.checked
        self.openings += other.openings
        self.resolved += other.resolved
        self.told += other.told
        self.set_aside += other.set_aside
        self.lag = max(self.lag, other.lag)
        self.started += other.started
