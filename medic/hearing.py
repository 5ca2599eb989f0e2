"""When Medic could not hear, from what its processes recorded.  Pure: no clock, no database.

Each ingest process records every few seconds that it hears.  Blind is a moment

- within a gap of more than 10 s between two records of one process, or after its last one, up to 60 s: it may have
  refused what others never heard of; after that it no longer counts, so that one sick process silences nobody;
- at which no process records at all, from the first record that there is; here a process that said goodbye leaves a
  gap from its last record on.

Without any record nothing is known, and nothing is blind.

**What two looks agree on.**  At `now` a process whose last record is at most 10 s old counts as hearing; if it turns
out to have died then, a later look calls these seconds blind.  So of the last 10 s before a look nothing is
certain; everything older is the same at each later look, as long as a record is visible as soon as it is made.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from medic.evaluator import Interval
from medic.evaluator.case import merged

TOLERANCE = timedelta(seconds=10)
"""Records may be this far apart; twice the time between them."""
LIVE = timedelta(seconds=60)
"""How long a process that records nothing still counts."""


@dataclass(frozen=True, slots=True)
class Record:
    """A process heard from `since` until `until`; `closed`: it stopped then, on purpose."""

    process: Hashable
    since: datetime
    until: datetime
    closed: bool = False


def blind_intervals(records: Iterable[Record], now: datetime) -> tuple[Interval, ...]:
    """The intervals up to `now` in which Medic could not hear: sorted, apart from each other.

    :param records: in any order; what is later than `now` is as good as not there.
    """
    by_process: dict[Hashable, list[Record]] = defaultdict(list)
    for record in records:
        if record.since <= now:
            by_process[record.process].append(_as_of(record, now))
    if not by_process:
        return ()
    heard: list[Interval] = []
    blind: list[Interval] = []
    for own in by_process.values():
        own.sort(key=lambda record: (record.since, record.until))
        for record, following in zip(own, [*own[1:], None], strict=True):
            heard.append(Interval(record.since, record.until))
            end = now if following is None else following.since
            if record.closed or end <= record.until:
                continue
            if end - record.until <= TOLERANCE:
                heard.append(Interval(record.until, end))
            else:
                blind.append(Interval(record.until, min(end, record.until + LIVE)))
    return merged([*blind, *_between(heard, now)], now)


def _as_of(record: Record, now: datetime) -> Record:
    """What there was of the record at `now`."""
    return record if record.until <= now else Record(record.process, record.since, now)


def _between(heard: list[Interval], now: datetime) -> list[Interval]:
    """When nobody heard, from the first record to `now`."""
    heard.sort()
    gaps = []
    end = heard[0].end
    for interval in heard[1:]:
        if interval.start > end:
            gaps.append(Interval(end, interval.start))
        end = max(end, interval.end)
    if now > end:
        gaps.append(Interval(end, now))
    return gaps
