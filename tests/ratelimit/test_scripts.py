"""The Lua scripts say what the Python formulas say (fakeredis runs them in a real Lua)."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from itertools import count

import fakeredis
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medic.ratelimit.decision import WINDOW_US
from medic.ratelimit.gcra import admit
from medic.ratelimit.policy import Policy, RateClass
from medic.ratelimit.redis_store import RedisStore
from medic.ratelimit.window import judge

EPOCH = 1_795_000_000_000_000
STEPS = st.lists(
    st.tuples(st.one_of(st.just(0), st.integers(-5_000_000, 40_000_000), st.integers(0, 200)), st.integers(1, 4)),
    max_size=25,
)  # fmt: skip
names = count()


@pytest.fixture(scope="module")
def fake() -> Iterator[RedisStore]:
    store = RedisStore(fakeredis.FakeRedis())
    yield store
    store.close()


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(limit=st.integers(1, 6), steps=STEPS)
def test_the_window_script_judges_as_the_formula(
    fake: RedisStore, limit: int, steps: list[tuple[int, int]]
) -> None:
    policy = Policy(RateClass.TRIGGER, limit, limit, exact=True)
    key, log, now = f"w{next(names)}", array("q"), EPOCH
    for step, cost in steps:
        now += step
        expected = judge(log, now=now, window=WINDOW_US, limit=limit, cost=cost)
        del log[: expected.expired]
        if expected.allowed:
            log.extend([expected.at] * cost)
        got = fake.window(key, policy, cost=cost, at=now)
        assert (got.allowed, got.remaining, got.reset_after, got.retry_after) == (
            expected.allowed,
            expected.remaining,
            expected.reset_after,
            expected.retry_after,
        )


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(limit=st.sampled_from([7, 60, 120]), burst=st.integers(1, 10), steps=STEPS)
def test_the_settle_script_judges_as_the_formula(
    fake: RedisStore, limit: int, burst: int, steps: list[tuple[int, int]]
) -> None:
    policy = Policy(RateClass.HEARTBEAT, limit, burst, exact=False)
    key, tat, now = f"s{next(names)}", 0.0, float(EPOCH)
    for step, cost in steps:
        now += abs(step)
        expected = admit(tat, now=now, interval=WINDOW_US / limit, burst=burst, cost=cost)
        tat = expected.tat
        got = fake.settle(key, policy, owed=0, cost=cost, at=now)
        assert got.allowed == expected.allowed
        assert got.ahead == pytest.approx(expected.reset_after / 1e6, abs=1e-6)


def test_what_is_owed_is_charged_even_when_the_bucket_is_empty(fake: RedisStore) -> None:
    policy = Policy(RateClass.HEARTBEAT, 60, 10, exact=False)
    assert fake.settle("owed", policy, owed=0, cost=10, at=EPOCH).ahead == 10
    settlement = fake.settle("owed", policy, owed=5, cost=1, at=EPOCH)
    assert not settlement.allowed
    assert settlement.ahead == 15


def test_a_debt_lasts_a_window_at_the_most(fake: RedisStore) -> None:
    policy = Policy(RateClass.HEARTBEAT, 60, 10, exact=False)
    assert fake.settle("debt", policy, owed=10_000, cost=1, at=EPOCH).ahead == 70


def test_a_log_keeps_no_more_entries_than_the_limit(fake: RedisStore) -> None:
    policy = Policy(RateClass.HEALTH, 2_500, 2_500, exact=True)
    assert fake.window("long", policy, cost=2_499, at=EPOCH).allowed
    assert fake.window("long", policy, cost=1, at=EPOCH + 1).allowed
    assert not fake.window("long", policy, cost=1, at=EPOCH + 2).allowed
    assert fake._client.llen("long") == 2_500
    assert fake.window("long", policy, cost=1, at=EPOCH + WINDOW_US).allowed
    assert fake._client.llen("long") == 2
