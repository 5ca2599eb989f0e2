"""Which message a target gets next, and what waits.  Pure.

A storm is grouped: of one route, up to `SINGLES` openings in any `GATHER` go out one by one; what comes beyond
them is gathered until the first of these is `GATHER` old, and goes as one message.  Resolutions are gathered
likewise, among themselves.  A target has a budget of messages in any `MINUTE`; beyond it everything waits
until a place is free, and what then goes to one route goes as one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import islice
from typing import Literal

GATHER = timedelta(seconds=30)
MINUTE = timedelta(seconds=60)
SINGLES = 4
MOST = 500
"""Alerts in one message."""

OPENINGS = frozenset({"opened", "reason_joined", "renotified", "escalated"})
"""Kinds that say that something fails."""

Word = Literal["opening", "resolution"]
Family = tuple[int | None, Word]
"""What may share a message: the route, and what is said."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """A delivery that is due and may go.

    :param claimed: it was tried before: its message stands, with what it carries.
    """

    id: int
    kind: str
    route_id: int | None
    created_at: datetime
    due_at: datetime
    claimed: bool = False

    @property
    def family(self) -> Family | None:
        word = word_of(self.kind)
        return None if word is None or self.claimed else (self.route_id, word)

    @property
    def gathered(self) -> bool:
        """It has waited already: what is new is due from the moment on in which it was made."""
        return self.due_at > self.created_at


@dataclass(frozen=True, slots=True)
class Plan:
    """The ids of the next message, the first one leading it; and until when others wait."""

    message: tuple[int, ...] = ()
    waits: Mapping[int, datetime] = field(default_factory=dict)


def word_of(kind: str) -> Word | None:
    """What a kind says, if it says it of many alerts at once."""
    if kind in OPENINGS:
        return "opening"
    return "resolution" if kind == "resolved" else None


def plan(
    due: Sequence[Waiting], *, now: datetime, groups: bool, sent: Mapping[Family, Sequence[datetime]],
    gathering: Mapping[Family, datetime], budget: Sequence[datetime], per_minute: int,
) -> Plan:  # fmt: skip
    """The next message.

    :param due: what may go, in its order.
    :param groups: whether the target takes many alerts in one message.
    :param sent: when messages of a family went; those on their way count as sent now.
    :param gathering: until when families gather.
    :param budget: when messages to this target went.
    """
    if not due:
        return Plan()
    places = free_places(budget, per_minute, now)
    first = next(places)
    if first > now:
        # The messages that these would be, each at the place that becomes free for it.
        waits: dict[int, datetime] = {}
        for message in _messages(due, groups=groups):
            waits |= dict.fromkeys(message, first)
            first = next(places)
        return Plan(waits=waits)
    waits = {}
    for row in due:
        if row.id in waits:
            continue
        family = row.family if groups else None
        if family is None:
            return Plan((row.id,), waits)
        kin = [other for other in due if other.family == family]
        if any(other.gathered for other in kin):
            return Plan(tuple(other.id for other in kin[:MOST]), waits)
        until = gathering.get(family)
        if until is None:
            lately = [at for at in sent.get(family, ()) if at > now - GATHER]
            if len(lately) < SINGLES:
                return Plan((row.id,), waits)
            until = min(lately) + GATHER
        waits |= {other.id: until for other in kin}
    return Plan(waits=waits)


def free_places(budget: Sequence[datetime], per_minute: int, now: datetime) -> Iterator[datetime]:
    """The moments at which one more message may go, and one more, …

    :param budget: when messages went, within the last minute or so.
    """
    went = sorted(at for at in budget if at > now - MINUTE)
    while True:
        at = now if len(went) < per_minute else max(now, went[-per_minute] + MINUTE)
        yield at
        went.append(at)


def _messages(due: Sequence[Waiting], *, groups: bool) -> Iterator[list[int]]:
    """What is due, as the messages that it would be if all of it was gathered."""
    by_family: dict[Family, list[int]] = {}
    singles: list[list[int]] = []
    for row in due:
        family = row.family if groups else None
        if family is None:
            singles.append([row.id])
        else:
            by_family.setdefault(family, []).append(row.id)
    yield from singles
    for ids in by_family.values():
        rest = iter(ids)
        while chunk := list(islice(rest, MOST)):
            yield chunk
