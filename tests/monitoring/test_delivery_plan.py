"""What goes next to a target, and when what failed is tried again: pure, so any history can be played."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from medic.deliveries import schedule
from medic.deliveries.grouping import GATHER, MINUTE, MOST, SINGLES, Family, Waiting, plan
from medic.deliveries.schedule import MAX_TRIES, PATIENCE, TRIES_WITH_OTHERS, retry_at
from medic.targets.base import LONGEST_SEND

T0 = datetime(2026, 3, 1, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return T0 + timedelta(seconds=seconds)


@dataclass
class Target:
    """A target that is looked at every tick, and takes each message at once."""

    per_minute: int = 1_000
    groups: bool = True
    waiting: dict[int, Waiting] = field(default_factory=dict)
    went: list[tuple[datetime, list[Waiting]]] = field(default_factory=list)

    def tick(self, now: datetime) -> None:
        while True:
            due = [row for row in self.waiting.values() if row.due_at <= now]
            gathering: dict[Family, datetime] = {}
            for row in self.waiting.values():
                if row.family and row.gathered and now < row.due_at <= now + GATHER:
                    gathering[row.family] = min(row.due_at, gathering.get(row.family, row.due_at))
            sent: dict[Family, list[datetime]] = {}
            for moment, rows in self.went:
                if rows[0].family:
                    sent.setdefault(rows[0].family, []).append(moment)
            chosen = plan(
                due, now=now, groups=self.groups, sent=sent, gathering=gathering,
                budget=[moment for moment, _ in self.went], per_minute=self.per_minute,
            )  # fmt: skip
            for row_id, until in chosen.waits.items():
                assert until > now
                row = self.waiting[row_id]
                self.waiting[row_id] = Waiting(row.id, row.kind, row.route_id, row.created_at, until)
            if not chosen.message:
                return
            self.went.append((now, [self.waiting.pop(row_id) for row_id in chosen.message]))

    def add(self, row_id: int, when: float, *, kind: str = "opened", route_id: int = 1) -> None:
        self.waiting[row_id] = Waiting(row_id, kind, route_id, at(when), at(when))

    def run(self, until: int) -> None:
        for second in range(until + 1):
            self.tick(at(second))

    def sizes(self) -> list[tuple[float, int]]:
        return [((moment - T0).total_seconds(), len(rows)) for moment, rows in self.went]


kinds = st.sampled_from(["opened", "opened", "reason_joined", "resolved", "acknowledged", "notice", "test"])
arrivals = st.lists(st.tuples(st.integers(0, 100), kinds, st.integers(1, 2)), max_size=60)


def play(target: Target, arrivals: list[tuple[int, str, int]], *, until: int) -> Target:
    ordered = sorted(arrivals, key=lambda item: item[0])
    for second in range(until + 1):
        for number, (when, kind, route_id) in enumerate(ordered):
            if when == second:
                target.add(number, when, kind=kind, route_id=route_id)
        target.tick(at(second))
    return target


def families(target: Target) -> Iterator[list[datetime]]:
    by_family: dict[Family, list[datetime]] = {}
    for moment, rows in target.went:
        if rows[0].family:
            by_family.setdefault(rows[0].family, []).append(moment)
    yield from by_family.values()


@given(arrivals)
def test_each_delivery_goes_once_and_none_is_gathered_for_longer_than_half_a_minute(
    arrivals: list[tuple[int, str, int]],
) -> None:
    target = play(Target(), arrivals, until=131)
    assert sorted(row.id for _, rows in target.went for row in rows) == list(range(len(arrivals)))
    for moment, rows in target.went:
        for row in rows:
            assert moment - row.created_at <= GATHER
            assert row.family or (moment == row.created_at and len(rows) == 1)
        assert len({row.family for row in rows}) == 1


@given(arrivals)
def test_of_one_family_no_more_than_four_messages_go_in_any_half_minute(
    arrivals: list[tuple[int, str, int]],
) -> None:
    for moments in families(play(Target(), arrivals, until=131)):
        for first, fifth in zip(moments, moments[SINGLES:], strict=False):
            assert fifth - first >= GATHER


@given(arrivals, st.integers(1, 8), st.booleans())
def test_no_minute_holds_more_messages_than_the_budget_and_all_go_in_the_end(
    arrivals: list[tuple[int, str, int]], per_minute: int, groups: bool
) -> None:
    target = Target(per_minute=per_minute, groups=groups)
    play(target, arrivals, until=100 + 60 * (len(arrivals) // per_minute + 2))
    moments = [moment for moment, _ in target.went]
    for first, beyond in zip(moments, moments[per_minute:], strict=False):
        assert beyond - first >= MINUTE
    assert sum(len(rows) for _, rows in target.went) == len(arrivals)
    if not groups:
        assert all(len(rows) == 1 for _, rows in target.went)


def test_four_go_one_by_one_and_the_rest_of_the_storm_is_one_message() -> None:
    target = Target()
    for number in range(100):
        target.add(number, 0)
    target.run(40)
    assert target.sizes() == [(0, 1)] * 4 + [(30, 96)]


def test_what_joins_a_storm_is_gathered_with_it_and_another_route_is_not_held_up() -> None:
    target = Target()
    for number in range(10):
        target.add(number, 0)
    target.tick(at(0))
    target.add(10, 20)
    target.add(11, 20, route_id=2)
    target.add(12, 20, kind="resolved")
    for second in range(20, 31):
        target.tick(at(second))
    assert target.sizes() == [(0, 1)] * 4 + [(20, 1), (20, 1), (30, 7)]


def test_a_message_holds_five_hundred_at_the_most() -> None:
    target = Target()
    for number in range(4 + 2 * MOST + 1):
        target.add(number, 0)
    target.run(30)
    assert [size for _, size in target.sizes()] == [1] * 4 + [MOST, MOST, 1]


def test_what_the_budget_held_back_goes_as_one_when_a_place_is_free() -> None:
    target = Target(per_minute=2)
    for number in range(3):
        target.add(number, 0)
    target.add(3, 10)
    target.run(61)
    assert target.sizes() == [(0, 1), (0, 1), (60, 2)]


def test_without_groups_each_waits_for_a_place_of_its_own_and_is_moved_once() -> None:
    target = Target(per_minute=2, groups=False)
    for number in range(7):
        target.add(number, 0)
    target.tick(at(0))
    assert [(row.due_at - T0).total_seconds() for row in target.waiting.values()] == [60, 60, 120, 120, 180]
    target.run(180)
    assert target.sizes() == [(0, 1), (0, 1), (60, 1), (60, 1), (120, 1), (120, 1), (180, 1)]


def test_a_message_that_was_tried_before_goes_as_it_was() -> None:
    rows = [
        Waiting(1, "opened", 1, at(0), at(60), claimed=True),
        Waiting(2, "opened", 1, at(0), at(60)),
        Waiting(3, "opened", 1, at(0), at(60)),
    ]
    given_ = {"now": at(60), "groups": True, "sent": {}, "gathering": {}, "budget": [], "per_minute": 30}
    assert plan(rows, **given_).message == (1,)  # type: ignore[arg-type]
    assert plan(rows[1:], **given_).message == (2, 3)  # type: ignore[arg-type]


# --- when it is tried again


def pauses(key: UUID, **options: bool) -> list[float]:
    """The pauses of a message that never arrives and whose tries take no time."""
    now, found = T0, []
    while True:
        moment = retry_at(key, tries=len(found) + 1, created_at=T0, now=now, **options)
        if moment is None:
            return found
        found.append((moment - now).total_seconds())
        now = moment


@given(st.uuids())
def test_the_pauses_grow_to_an_hour_and_end_within_a_day(key: UUID) -> None:
    found = pauses(key)
    for pause, planned in zip(found, schedule.PAUSES_S, strict=False):
        assert planned * 0.8 <= pause <= planned * 1.2
    assert all(2880 <= pause <= 4320 for pause in found[6:])
    assert len(found) < MAX_TRIES
    assert PATIENCE.total_seconds() - 4320 <= sum(found) <= PATIENCE.total_seconds()
    assert pauses(key) == found
    assert len(pauses(key, others=True)) == TRIES_WITH_OTHERS - 1


def test_the_jitter_differs_from_message_to_message() -> None:
    assert len({pauses(UUID(int=number))[0] for number in range(20)}) == 20


@given(st.uuids(), st.floats(0, 1e9))
def test_a_target_that_names_a_time_is_believed_up_to_an_hour(key: UUID, retry_after: float) -> None:
    plain = retry_at(key, tries=1, created_at=T0, now=T0)
    asked = retry_at(key, tries=1, created_at=T0, now=T0, retry_after=retry_after)
    assert plain
    assert asked == max(plain, T0 + timedelta(seconds=min(retry_after, 3600)))


def test_a_lease_outlives_the_longest_send() -> None:
    assert schedule.LEASE.total_seconds() >= LONGEST_SEND + 15
