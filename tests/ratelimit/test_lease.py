"""Leases: mostly no round trip, and never more calls than the bound that the docstring states."""

from __future__ import annotations

import fakeredis
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medic.ratelimit.gcra import Settlement
from medic.ratelimit.lease import LEASE_LEAK, LEASE_SHARE, LeasedBuckets
from medic.ratelimit.policy import Policy, RateClass
from medic.ratelimit.redis_store import RedisStore

HEARTBEAT = Policy(RateClass.HEARTBEAT, 120, 60, exact=False)
EPOCH = 1_795_000_000.0
S = ("heartbeat", "s")


class Shared:
    """The way to one shared Redis, at simulated time; counts the round trips, and can be away."""

    def __init__(self) -> None:
        self.store = RedisStore(fakeredis.FakeRedis())
        self.trips = 0
        self.away = False

    def __call__(
        self, subject: str, policy: Policy, *, owed: int, cost: int, now: float
    ) -> Settlement | None:
        if self.away:
            return None
        self.trips += 1
        # The server's clock is another one than the callers'.
        return self.store.settle(subject, policy, owed=owed, cost=cost, at=(EPOCH + now) * 1e6)


@settings(max_examples=25, deadline=None)
@given(
    processes=st.integers(1, 4),
    calls=st.lists(
        st.tuples(st.integers(0, 3), st.sampled_from([0, 1, 40, 900]), st.integers(1, 20)), max_size=60
    ),
)
def test_the_calls_that_pass_stay_inside_the_stated_bound(
    processes: int, calls: list[tuple[int, int, int]]
) -> None:
    shared = Shared()
    fleet = [LeasedBuckets(shared) for _ in range(processes)]
    passed: list[float] = []
    now = 1000.0
    for process, milliseconds, repeat in calls:
        for _ in range(repeat):
            now += milliseconds / 1000
            if fleet[process % processes].hit(S, HEARTBEAT, cost=1, now=now).allowed:
                passed.append(now)
    for start in range(len(passed)):
        for end in range(start, len(passed)):
            minutes = (passed[end] - passed[start]) / 60
            bound = 60 + 120 * minutes + processes * (60 // LEASE_SHARE + 120 / LEASE_LEAK * minutes)
            assert end - start + 1 <= bound + 1e-6


def test_one_process_alone_gives_the_whole_burst_and_hardly_more() -> None:
    shared = Shared()
    buckets = LeasedBuckets(shared)
    answers = [buckets.hit(S, HEARTBEAT, cost=1, now=5.0).allowed for _ in range(200)]
    assert 60 <= sum(answers) <= 67
    assert not any(answers[67:])


def test_four_processes_share_the_burst() -> None:
    shared = Shared()
    fleet = [LeasedBuckets(shared) for _ in range(4)]
    passed = sum(fleet[n % 4].hit(S, HEARTBEAT, cost=1, now=5.0).allowed for n in range(1000))
    assert 60 <= passed <= 60 + 4 * 7


def test_a_service_that_beats_once_a_minute_costs_no_round_trip() -> None:
    shared = Shared()
    buckets = LeasedBuckets(shared)
    for minute in range(500):
        assert buckets.hit(S, HEARTBEAT, cost=1, now=minute * 60.0).allowed
    assert shared.trips == 0


def test_a_service_at_its_full_rate_is_never_refused_and_pays_one_trip_in_many_calls() -> None:
    shared = Shared()
    buckets = LeasedBuckets(shared)
    for beat in range(1200):
        assert buckets.hit(S, HEARTBEAT, cost=1, now=beat * 0.5).allowed
    assert shared.trips <= 1200 / 7


def test_refusals_cost_no_round_trip() -> None:
    shared = Shared()
    buckets = LeasedBuckets(shared)
    while buckets.hit(S, HEARTBEAT, cost=1, now=5.0).allowed:
        pass
    trips = shared.trips
    for _ in range(500):
        decision = buckets.hit(S, HEARTBEAT, cost=1, now=5.1)
        assert not decision.allowed
    assert shared.trips == trips
    assert decision.remaining == 0
    assert buckets.hit(S, HEARTBEAT, cost=1, now=5.1 + decision.retry_after).allowed


def test_a_call_of_a_high_cost_is_judged_by_the_shared_bucket() -> None:
    shared = Shared()
    here, there = LeasedBuckets(shared), LeasedBuckets(shared)
    assert here.hit(S, HEARTBEAT, cost=50, now=5.0).allowed
    refused = there.hit(S, HEARTBEAT, cost=50, now=5.0)
    assert not refused.allowed
    assert refused.remaining == 10
    assert refused.retry_after == pytest.approx(20.0, abs=0.001)
    assert there.hit(S, HEARTBEAT, cost=50, now=5.0 + refused.retry_after).allowed


def test_without_redis_the_rate_is_exact() -> None:
    buckets = LeasedBuckets(None)
    assert sum(buckets.hit(S, HEARTBEAT, cost=1, now=5.0).allowed for _ in range(100)) == 60
    assert sum(buckets.hit(S, HEARTBEAT, cost=1, now=6.0).allowed for _ in range(100)) == 2


def test_while_redis_is_away_each_process_applies_the_whole_limit() -> None:
    shared = Shared()
    shared.away = True
    buckets = LeasedBuckets(shared)
    assert sum(buckets.hit(S, HEARTBEAT, cost=1, now=5.0).allowed for _ in range(100)) == 60


def test_a_clock_that_steps_back_locks_nobody_out() -> None:
    buckets = LeasedBuckets(None)
    while buckets.hit(S, HEARTBEAT, cost=1, now=9_000.0).allowed:
        pass
    assert buckets.hit(S, HEARTBEAT, cost=1, now=100.0).allowed


def test_the_number_of_subjects_is_bounded() -> None:
    buckets = LeasedBuckets(None, max_subjects=3)
    for subject in "abcde":
        buckets.hit(("heartbeat", subject), HEARTBEAT, cost=1, now=0.0)
    assert len(buckets) == 3


def test_a_settlement_that_raises_leaves_the_bucket_usable() -> None:
    def broken(subject: str, policy: Policy, *, owed: int, cost: int, now: float) -> Settlement | None:
        raise RuntimeError

    buckets = LeasedBuckets(broken)
    with pytest.raises(RuntimeError):
        buckets.hit(S, HEARTBEAT, cost=30, now=0.0)
    assert buckets._buckets[S].settling == 0


def test_a_lease_that_is_being_settled_is_not_used_a_second_time() -> None:
    shared, owed_seen, nested = Shared(), list[int](), list[bool]()

    def slow(subject: str, policy: Policy, *, owed: int, cost: int, now: float) -> Settlement | None:
        owed_seen.append(owed)
        if len(owed_seen) == 1:
            # What another thread does while this one waits for Redis.
            nested.extend(buckets.hit(S, HEARTBEAT, cost=1, now=now).allowed for _ in range(3))
        return shared(subject, policy, owed=owed, cost=cost, now=now)

    buckets = LeasedBuckets(slow)
    for _ in range(3):
        assert buckets.hit(S, HEARTBEAT, cost=1, now=5.0).allowed
    assert buckets.hit(S, HEARTBEAT, cost=20, now=5.0).allowed
    # Three calls are settled; those that come meanwhile would fit the lease, but ask Redis, owing nothing.
    assert owed_seen == [3, 0, 0, 0]
    assert nested == [True] * 3
