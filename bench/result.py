"""What a row claims, what was measured, and whether it holds."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bench.stage import Stage


@dataclass(frozen=True, slots=True)
class Measured:
    """Samples of one row, one per round; ``floor`` is empty where the claim is about the value itself."""

    values: Sequence[float]
    floor: Sequence[float] = ()
    note: str = ""

    @property
    def value(self) -> float:
        return statistics.median(self.values)

    @property
    def floor_value(self) -> float | None:
        return statistics.median(self.floor) if self.floor else None

    @property
    def ratio(self) -> float | None:
        """The median of the rounds' own ratios, so that a drift of the machine cancels out."""
        if not self.floor:
            return None
        return statistics.median(value / floor for value, floor in zip(self.values, self.floor, strict=True))

    @property
    def spread(self) -> tuple[float, float]:
        """Least and greatest over the rounds: of the ratio, or of the value where there is no floor."""
        if self.floor:
            ratios = [value / floor for value, floor in zip(self.values, self.floor, strict=True)]
            return min(ratios), max(ratios)
        return min(self.values), max(self.values)


@dataclass(frozen=True, slots=True)
class NotBuilt:
    """Medic lacks this side today: the row is shown, and counts for nothing."""

    why: str


Finding = Measured | NotBuilt


@dataclass(frozen=True, slots=True)
class Row:
    """One claim: the ratio (or, without a floor, the value) is ``at_least`` or ``at_most`` this.

    A row without either claims nothing: it shows how a number goes with its circumstances.

    :param unit: of value and floor.
    """

    name: str
    what: str
    unit: str
    measure: Callable[[Stage], Finding] = field(repr=False)
    at_least: float | None = None
    at_most: float | None = None

    @property
    def is_claim(self) -> bool:
        return self.at_least is not None or self.at_most is not None

    def judge(self, finding: Finding) -> Judged:
        return Judged(self, finding)


@dataclass(frozen=True, slots=True)
class Judged:
    """A row with what was found."""

    row: Row
    finding: Finding

    @property
    def holds(self) -> bool | None:
        """None where there was nothing to measure, or nothing is claimed."""
        if isinstance(self.finding, NotBuilt) or not self.row.is_claim:
            return None
        judged = self.finding.value if self.finding.ratio is None else self.finding.ratio
        if self.row.at_least is not None:
            return judged >= self.row.at_least
        return self.row.at_most is None or judged <= self.row.at_most

    def as_json(self) -> dict[str, Any]:
        """The entry of ``bench.json``; numbers are null where nothing was measured."""
        found = self.finding if isinstance(self.finding, Measured) else None
        bounds = {"at_least": self.row.at_least, "at_most": self.row.at_most}
        return {
            "row": self.row.name,
            "value": _rounded(found.value if found else None),
            "floor": _rounded(found.floor_value if found else None),
            "ratio": _rounded(found.ratio if found else None),
            **{name: bound for name, bound in bounds.items() if bound is not None},
            "holds": self.holds,
        }


def _rounded(number: float | None) -> float | None:
    return None if number is None else float(f"{number:.4g}")
