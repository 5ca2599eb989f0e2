"""When Medic could not hear: against an oracle that looks at each moment, and one look against a later one."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from medic.evaluator import Interval
from medic.hearing import Record, blind_intervals

START = datetime(2026, 3, 29, tzinfo=UTC)
END = 600


def at(second: float) -> datetime:
    return START + timedelta(seconds=second)


def is_blind(gaps: tuple[Interval, ...], second: float) -> bool:
    return any(gap.start < at(second) < gap.end for gap in gaps)


def said_blind(records: list[Record], second: float, now: int) -> bool:
    """The rule, told for one moment."""
    moment, end = at(second), at(now)
    known = [record for record in records if record.since <= end]
    if not any(record.since <= moment for record in known):
        return False
    somebody_hears = somebody_is_missing = False
    for process in {record.process for record in known}:
        own = [record for record in known if record.process == process]
        begun = [record for record in own if record.since <= moment]
        if not begun:
            continue
        last = max(begun, key=lambda record: record.since)
        if moment <= last.until:
            somebody_hears = True
        elif not last.closed:
            again = min((record.since for record in own if record.since > moment), default=end)
            if again - last.until <= timedelta(seconds=10):
                somebody_hears = True
            elif moment < last.until + timedelta(seconds=60):
                somebody_is_missing = True
    return somebody_is_missing or not somebody_hears


@st.composite
def processes(draw: st.DrawFn) -> list[tuple[list[int], bool]]:
    """Of each process when it recorded, and whether its last record was a farewell."""
    made = []
    for _ in range(draw(st.integers(0, 3))):
        first = draw(st.integers(0, END // 2))
        steps = draw(st.lists(st.sampled_from([1, 5, 5, 5, 9, 10, 11, 30, 59, 60, 61, 90, 200]), max_size=30))
        times = [first]
        for step in steps:
            times.append(times[-1] + step)
        made.append((times, draw(st.booleans())))
    return made


def stored(made: list[tuple[list[int], bool]], now: int) -> list[Record]:
    """The rows that there are at `now`: a record within 10 s of the one before extends its row."""
    rows: list[Record] = []
    for process, (times, says_goodbye) in enumerate(made):
        row: Record | None = None
        for time in times:
            if time > now:
                break
            closed = says_goodbye and time == times[-1]
            if row is not None and at(time) - row.until <= timedelta(seconds=10):
                row = Record(process, row.since, at(time), closed)
            else:
                if row is not None:
                    rows.append(row)
                row = Record(process, at(time), at(time), closed)
        if row is not None:
            rows.append(row)
    return rows


@given(processes(), st.integers(0, END))
def test_each_moment_is_judged_as_the_rule_says(made: list[tuple[list[int], bool]], now: int) -> None:
    rows = stored(made, now)
    found = blind_intervals(reversed(rows), at(now))
    for second in range(now):
        assert is_blind(found, second + 0.5) == said_blind(rows, second + 0.5, now), second
    assert all(one.end < other.start for one, other in pairwise(found))
    assert all(gap.start < gap.end <= at(now) for gap in found)


@given(processes(), st.integers(0, END), st.integers(0, END))
def test_a_later_look_says_the_same_of_all_but_the_last_ten_seconds(
    made: list[tuple[list[int], bool]], one: int, other: int
) -> None:
    early, late = sorted((one, other))
    before, after = (
        blind_intervals(stored(made, early), at(early)),
        blind_intervals(stored(made, late), at(late)),
    )
    for second in range(early):
        if second < early - 10 or is_blind(before, second + 0.5):
            assert is_blind(before, second + 0.5) == is_blind(after, second + 0.5), second


@given(processes(), st.integers(0, END))
def test_records_of_later_than_now_are_as_good_as_not_there(
    made: list[tuple[list[int], bool]], now: int
) -> None:
    # A record that goes on beyond `now` was extended later on: until then Medic heard, as a moment later shows.
    whole = stored(made, END * 20)
    found = blind_intervals(whole, at(now))
    for second in range(now - 10):
        assert is_blind(found, second + 0.5) == is_blind(
            blind_intervals(stored(made, now), at(now)), second + 0.5
        )


def test_without_any_record_nothing_is_blind() -> None:
    assert blind_intervals([], at(0)) == ()
    assert blind_intervals([Record("p", at(10), at(20))], at(5)) == ()


def test_one_sick_process_silences_the_others_for_a_minute_at_the_most() -> None:
    well, sick = Record("well", at(0), at(400)), Record("sick", at(0), at(100))
    assert blind_intervals([well, sick], at(110)) == ()
    assert blind_intervals([well, sick], at(111)) == (Interval(at(100), at(111)),)
    assert blind_intervals([well, sick], at(400)) == (Interval(at(100), at(160)),)


def test_whoever_is_left_alone_and_dies_leaves_a_gap_until_somebody_hears() -> None:
    dead, heir = Record("dead", at(0), at(100)), Record("heir", at(3700), at(3800))
    assert blind_intervals([dead], at(3600)) == (Interval(at(100), at(3600)),)
    assert blind_intervals([dead, heir], at(3800)) == (Interval(at(100), at(3700)),)


def test_a_farewell_leaves_a_gap_only_when_nobody_is_left() -> None:
    gone, there = Record("gone", at(0), at(100), closed=True), Record("there", at(50), at(400))
    assert blind_intervals([gone, there], at(400)) == ()
    heir = Record("heir", at(104), at(400))
    assert blind_intervals([gone, heir], at(400)) == (Interval(at(100), at(104)),)
