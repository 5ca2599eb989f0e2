"""What a sweep did."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from uuid import UUID


@dataclass(slots=True)
class Swept:
    """Counts of one sweep; ``started`` are executions to dispatch now that it is committed."""

    checked: int = 0
    opened: int = 0
    resolved: int = 0
    set_aside: int = 0
    lag: timedelta = timedelta(0)
    started: list[UUID] = field(default_factory=list)

    def add(self, other: Swept) -> None:
        self.checked += other.checked
        self.opened += other.opened
        self.resolved += other.resolved
        self.set_aside += other.set_aside
        self.lag = max(self.lag, other.lag)
        self.started += other.started
