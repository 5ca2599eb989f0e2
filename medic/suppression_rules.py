"""What a maintenance window is: when it holds, and for which services.  Pure; UTC in, UTC out.

A window holds once, from its start to its end, or again and again: each time its cron fires (on the clock of
its zone, as in `medic.schedule`) for its duration, which is elapsed time; then a start and an end are bounds that
no occurrence reaches across.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice, pairwise, takewhile
from typing import Any, cast

from medic.errors import Invalid
from medic.playbook.glob import matches
from medic.schedule import Cron, occurrences, parse_schedule
from medic.times import MAX_DURATION

LONGEST = timedelta(days=31)
"""Of a recurring window; what is quiet for longer is paused."""
SHORTEST = timedelta(minutes=1)
_COMPARED = 400
_COMPARED_TO = 2100
_MERGED = 1_000
_MOMENT = timedelta(microseconds=1)
_STARS = re.compile(r"\*+")


@dataclass(frozen=True, slots=True)
class Span:
    """From ``start`` until before ``end``."""

    start: datetime
    end: datetime


@dataclass(frozen=True, slots=True)
class Timing:
    """When a window holds.  ``cron`` and ``duration`` go together; without them both times are given."""

    starts_at: datetime | None = None
    ends_at: datetime | None = None
    cron: Cron | None = None
    duration: timedelta | None = None

    @classmethod
    def parse(
        cls, *, starts_at: datetime | None, ends_at: datetime | None, cron: str | None, duration: timedelta | None,
        timezone: str, now: datetime,
    ) -> Timing:  # fmt: skip
        """Read a window's times; a single one starts now if nothing else is said, and may be given by its length.

        :raises Invalid: naming the field that is wrong.
        """
        if any(at is not None and at > now + MAX_DURATION for at in (starts_at, ends_at)):
            raise Invalid.at("ends_at", "is more than ten years ahead")
        if cron is None:
            starts_at = starts_at or now
            if (ends_at is None) == (duration is None):
                raise Invalid.at("ends_at", "give the end of the window, or its duration")
            ends_at = ends_at or starts_at + cast("timedelta", duration)
            timing = cls(starts_at, ends_at)
        else:
            if duration is None:
                raise Invalid.at("duration", "is needed beside cron, as 2h")
            parsed = parse_schedule(cron=cron, timezone=timezone)
            timing = cls(starts_at, ends_at, cast("Cron", parsed), duration)
            _check_length(timing, duration)
        if ends_at is not None:
            if starts_at is not None and ends_at <= starts_at:
                raise Invalid.at("ends_at", "is not after the start")
            if ends_at <= now:
                raise Invalid.at("ends_at", "is in the past")
        return timing


def _check_length(timing: Timing, duration: timedelta) -> None:
    if not SHORTEST <= duration <= LONGEST:
        raise Invalid.at("duration", "must be 1m to 31d for a window that recurs")
    # From a fixed day on, so that the same window is taken or refused whenever it is sent.
    fires = occurrences(cast("Cron", timing.cron), datetime.fromisoformat("2000-01-01T00:00:00Z"))
    # What fires once in 28 years would take the comparison beyond the end of the calendar.
    starts = islice(takewhile(lambda at: at.year < _COMPARED_TO, fires), _COMPARED)
    if any(later - earlier <= duration for earlier, later in pairwise(starts)):
        raise Invalid.at(
            "duration", "is as long as the time to the next start, or longer: the window would never end"
        )


def spans(timing: Timing, since: datetime, until: datetime) -> Iterator[Span]:
    """The occurrences that reach into ``since`` … ``until``, by their start, each whole."""
    for span in _from(timing, since):
        if span.start >= until:
            return
        yield span


def run_after(timing: Timing, at: datetime) -> Span | None:
    """The first time without a gap that ends later than ``at``: occurrences that touch or overlap are one."""
    found = _from(timing, at)
    run = next(found, None)
    if run is None:
        return None
    for span in islice(found, _MERGED):
        if span.start > run.end:
            break
        run = Span(run.start, max(run.end, span.end))
    return run


def is_active(timing: Timing, at: datetime) -> bool:
    """Whether the window holds at this moment."""
    first = next(_from(timing, at), None)
    return first is not None and first.start <= at


def _from(timing: Timing, since: datetime) -> Iterator[Span]:
    """Every occurrence that ends later than ``since``."""
    low, high = timing.starts_at, timing.ends_at
    if timing.cron is None or timing.duration is None:
        if low is not None and high is not None and high > since:
            yield Span(low, high)
        return
    since = since if low is None else max(since, low)
    for start in occurrences(timing.cron, since - timing.duration):
        if high is not None and start >= high:
            return
        end = start + timing.duration
        found = Span(start if low is None else max(start, low), end if high is None else min(end, high))
        if found.end > since:  # a bound may cut it off before
            yield found


def next_due(timing: Timing, at: datetime, *, notices: bool) -> datetime | None:
    """When something is to be done next: at an end services are woken, a start is told if that is asked for."""
    run = run_after(timing, at)
    if run is None:
        return None
    return run.start if notices and run.start > at else run.end


@dataclass(frozen=True, slots=True)
class Passed:
    """What a window went through: whether it ended, and the newest of its starts and ends."""

    has_ended: bool = False
    newest: str | None = None
    at: datetime | None = None


def passed(timing: Timing, since: datetime, until: datetime) -> Passed:
    """What happened from ``since`` to ``until``, both of them included."""
    found = Passed()
    at = since - _MOMENT
    for _ in range(_MERGED):
        run = run_after(timing, at)
        if run is None or max(run.start, since) > until:
            break
        if run.start >= since:
            found = Passed(found.has_ended, "start", run.start)
        if run.end > until:
            break
        found = Passed(has_ended=True, newest="end", at=run.end)
        at = run.end
    return found


SELECTOR = ("all", "services", "tags", "team")


def parse_selector(given: Mapping[str, Any]) -> dict[str, Any]:
    """Check which services a window is for: those that any of the given keys names.

    :raises Invalid: nothing is chosen, or ``all`` beside something else.
    """
    chosen = {key: given[key] for key in SELECTOR if given.get(key)}
    if not chosen:
        raise Invalid.at("selector", "choose services, tags, a team, or all: true")
    if "all" in chosen and len(chosen) > 1:
        raise Invalid.at("selector.all", "leaves nothing for the others to add")
    return chosen


def selects(selector: Mapping[str, Any], *, name: str, tags: Iterable[str], team: str | None) -> bool:
    """Whether a window is for this service."""
    return (
        bool(selector.get("all"))
        or any(_fits(pattern, name) for pattern in selector.get("services", ()))
        or not set(selector.get("tags", ())).isdisjoint(tags)
        or (team is not None and selector.get("team") == team)
    )


def _fits(pattern: str, name: str) -> bool:
    # Most names fail at the text before the first wildcard, and many are compared with many windows.
    return name.startswith(pattern.partition("*")[0].partition("?")[0]) and matches(pattern, name)


def is_within(selector: Mapping[str, Any], patterns: Iterable[str]) -> bool:
    """Whether a window reaches nothing but services of these names, whichever services there will be."""
    wide = tuple(patterns)
    return set(selector) == {"services"} and all(
        any(covers(one, pattern) for one in wide) for pattern in selector["services"]
    )


def covers(wide: str, narrow: str) -> bool:
    """Whether each name that fits the glob ``narrow`` fits ``wide`` too; false where that cannot be told."""
    wide, narrow = _STARS.sub("*", wide), _STARS.sub("*", narrow)  # many stars say no more, and cost
    places = _behind_stars(wide, {0})
    for char in narrow:
        if not places:
            return False
        places = _behind_stars(
            wide,
            {place for place in places if wide[place : place + 1] == "*"}
            | {
                place + 1
                for place in places
                if place < len(wide)
                and (wide[place] == char if wide[place] != "?" else char != "*")
                and wide[place] != "*"
            },
        )
    return len(wide) in places


def _behind_stars(wide: str, places: set[int]) -> set[int]:
    found = set(places)
    for place in sorted(places):
        while wide[place : place + 1] == "*":
            place += 1  # noqa: PLW2901 - the walk goes on from there
            found.add(place)
    return found
