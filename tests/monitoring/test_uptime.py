"""The arithmetic of a day, against a slow oracle that looks at every second."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from medic.evaluator import Interval
from medic.uptime import DAY, day_of, pauses, percent, split

START = datetime(2026, 3, 29, tzinfo=UTC)
LENGTH = 600
WHOLE = Interval(START, START + timedelta(seconds=LENGTH))
moments = st.integers(-LENGTH, 2 * LENGTH)
# Whole seconds, so that one second is one answer; ends may lie before starts, as in a row that was corrected.
intervals = st.lists(st.tuples(moments, moments), max_size=6)


def at(second: float) -> datetime:
    return START + timedelta(seconds=second)


def made(pairs: list[tuple[int, int]]) -> list[Interval]:
    return [Interval(at(start), at(end)) for start, end in pairs]


@given(down=intervals, unknown=intervals)
def test_each_second_is_down_or_else_unknown_or_else_up(
    down: list[tuple[int, int]], unknown: list[tuple[int, int]]
) -> None:
    down_s = unknown_s = 0
    for second in range(LENGTH):
        if any(start <= second < end for start, end in down):
            down_s += 1
        elif any(start <= second < end for start, end in unknown):
            unknown_s += 1
    found = split(WHOLE, down=made(down), unknown=made(unknown))
    assert (found.up_s, found.down_s, found.unknown_s) == (LENGTH - down_s - unknown_s, down_s, unknown_s)


fractions = st.lists(st.tuples(st.floats(0, LENGTH), st.floats(0, LENGTH)).map(sorted), max_size=6)


@given(length=st.floats(0, LENGTH), down=fractions, unknown=fractions)
def test_fractions_of_seconds_never_add_up_to_more_than_the_whole(
    length: float, down: list[list[float]], unknown: list[list[float]]
) -> None:
    whole = Interval(START, at(length))
    found = split(
        whole,
        down=[Interval(at(start), at(end)) for start, end in down],
        unknown=[Interval(at(start), at(end)) for start, end in unknown],
    )
    assert min(found.up_s, found.down_s, found.unknown_s) >= 0
    assert found.up_s + found.down_s + found.unknown_s == (whole.end - whole.start) // timedelta(seconds=1)


def test_a_day_is_from_midnight_to_midnight_in_utc_also_when_clocks_change() -> None:
    assert day_of(date(2026, 3, 29)) == Interval(START, START + DAY)
    assert sum(vars_of(split(day_of(date(2026, 3, 29)), down=[], unknown=[]))) == 86_400


def vars_of(found: object) -> list[int]:
    return [getattr(found, name) for name in ("up_s", "down_s", "unknown_s")]


@given(up=st.integers(0, 400 * 86_400), down=st.integers(0, 400 * 86_400))
def test_only_what_was_never_down_is_100_percent(up: int, down: int) -> None:
    found = percent(up, down)
    if up + down == 0:
        assert found is None
    else:
        assert found is not None
        assert (found == 100) == (down == 0)
        assert 0 <= found <= 100
        assert abs(found - 100 * up / (up + down)) <= 0.001


@given(
    flips=st.lists(st.tuples(st.integers(0, LENGTH), st.booleans()), max_size=8).map(sorted),
    was_paused=st.booleans(),
)
def test_pauses_are_where_the_last_change_says_so(flips: list[tuple[int, bool]], was_paused: bool) -> None:
    found = pauses([(at(second), word) for second, word in flips], was_paused=was_paused, whole=WHOLE)
    for second in range(LENGTH):
        said = [was_paused, *(word for moment, word in flips if moment <= second)]
        assert any(one.start <= at(second) < one.end for one in found) == said[-1]
