"""The smooth rate against a bucket of exact fractions."""

from __future__ import annotations

from fractions import Fraction
from math import floor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medic.ratelimit.gcra import admit

STEPS = st.lists(st.tuples(st.integers(0, 9_000), st.integers(1, 4)), max_size=60)


@given(limit=st.sampled_from([7, 60, 120, 123]), burst=st.integers(1, 10), steps=STEPS)
def test_the_smooth_rate_is_a_token_bucket(limit: int, burst: int, steps: list[tuple[int, int]]) -> None:
    interval = Fraction(60, limit)
    tokens, last, tat = Fraction(burst), 0, 0.0
    for step, cost in steps:
        now = last + step
        tokens = min(Fraction(burst), tokens + Fraction(now - last, 1000) / interval)
        last = now
        verdict = admit(tat, now=now / 1000, interval=60 / limit, burst=burst, cost=cost)
        if abs(tokens - cost) > Fraction(2, 1000):
            assert verdict.allowed == (tokens >= cost)
        if verdict.allowed:
            tokens -= cost
        tat = verdict.tat
        assert verdict.reset_after == pytest.approx(
            float((burst - tokens) * interval), abs=0.005 * 60 / limit
        )
        assert verdict.remaining in {max(0, floor(tokens)), max(0, floor(tokens + Fraction(2, 1000)))}


@given(burst=st.integers(1, 10), used=st.integers(0, 10), cost=st.integers(1, 10))
def test_a_refused_call_passes_after_retry_after_and_not_well_before(
    burst: int, used: int, cost: int
) -> None:
    tat = 100.0 + min(used, burst) * 0.5
    verdict = admit(tat, now=100.0, interval=0.5, burst=burst, cost=cost)
    if verdict.allowed:
        assert verdict.retry_after == 0
    elif cost <= burst:
        at = 100.0 + verdict.retry_after
        assert admit(tat, now=at, interval=0.5, burst=burst, cost=cost).allowed
        assert not admit(tat, now=at - 0.1, interval=0.5, burst=burst, cost=cost).allowed


def test_a_hundred_and_twenty_a_minute_with_a_burst_of_sixty_is_just_that() -> None:
    tat, passed = 0.0, 0
    for tick in range(60 * 1000):
        verdict = admit(tat, now=1e9 + tick / 1000, interval=0.5, burst=60, cost=1)
        tat, passed = verdict.tat, passed + verdict.allowed
        if tick == 0:
            assert verdict.remaining == 59
    assert passed == 60 + 119
