"""The exact window against an oracle that remembers everything."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from medic.ratelimit.memory import WindowLogs
from medic.ratelimit.policy import Policy, RateClass
from medic.ratelimit.window import judge

WINDOW = 1_000
STEPS = st.lists(st.tuples(st.integers(0, 700), st.integers(1, 3)), max_size=40)


def policy(limit: int) -> Policy:
    return Policy(RateClass.TRIGGER, limit, limit, exact=True)


@given(limit=st.integers(1, 5), steps=STEPS)
def test_a_call_passes_exactly_when_fewer_than_the_limit_passed_in_the_window_before(
    limit: int, steps: list[tuple[int, int]]
) -> None:
    logs, passed, now = WindowLogs(), list[int](), 0
    for step, cost in steps:
        now += step
        inside = [at for at in passed if now - WINDOW < at <= now]
        verdict = logs.hit("subject", policy(limit), cost=cost, now=now, window=WINDOW)
        assert verdict.allowed == (len(inside) + cost <= limit)
        if verdict.allowed:
            passed += [now] * cost
            inside += [now] * cost
        assert verdict.remaining == limit - len(inside)
        assert verdict.reset_after == (inside[-1] + WINDOW - now if inside else 0)


@given(limit=st.integers(1, 5), steps=STEPS, cost=st.integers(1, 3))
def test_a_refused_call_passes_after_retry_after_and_not_a_microsecond_before(
    limit: int, steps: list[tuple[int, int]], cost: int
) -> None:
    log, now = list[int](), 0
    for step, weight in steps:
        now += step
        if judge(log, now=now, window=WINDOW, limit=limit, cost=weight).allowed:
            log += [now] * weight
    verdict = judge(log, now=now, window=WINDOW, limit=limit, cost=cost)
    if verdict.allowed:
        assert verdict.retry_after == 0
        return
    assert verdict.retry_after > 0
    if cost > limit:
        assert verdict.retry_after == WINDOW
        return
    at = now + verdict.retry_after
    assert judge(log, now=at, window=WINDOW, limit=limit, cost=cost).allowed
    assert not judge(log, now=at - 1, window=WINDOW, limit=limit, cost=cost).allowed


def test_calls_at_the_same_instant_count_one_by_one() -> None:
    logs = WindowLogs()
    answers = [logs.hit("s", policy(3), cost=1, now=7, window=WINDOW).allowed for _ in range(5)]
    assert answers == [True, True, True, False, False]


def test_a_clock_that_steps_back_a_little_loses_no_call() -> None:
    verdict = judge([500, 500], now=400, window=WINDOW, limit=2, cost=1)
    assert not verdict.allowed
    assert verdict.retry_after == WINDOW


def test_a_clock_that_steps_back_by_hours_locks_nobody_out() -> None:
    verdict = judge([10**9, 10**9], now=400, window=WINDOW, limit=2, cost=1)
    assert verdict.allowed
    assert verdict.expired == 2


def test_the_subject_unused_for_longest_is_forgotten_when_there_are_too_many() -> None:
    logs = WindowLogs(max_subjects=2)
    for subject in ("a", "b", "a", "c"):
        logs.hit(subject, policy(2), cost=1, now=0, window=WINDOW)
    assert len(logs) == 2
    assert not logs.hit("a", policy(2), cost=1, now=1, window=WINDOW).allowed
    assert logs.hit("b", policy(2), cost=2, now=1, window=WINDOW).allowed


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(1, 4), st.integers(0, 600)), max_size=80))
def test_the_logs_together_stay_inside_their_bound(hits: list[tuple[str, int, int]]) -> None:
    logs, now = WindowLogs(max_entries=12), 0
    for subject, cost, step in hits:
        now += step
        logs.hit(subject, policy(10), cost=cost, now=now, window=WINDOW)
        assert logs.entries == sum(len(log) for log in logs._logs.values())
        # A log keeps at most as many old entries as it has new ones.
        assert logs.entries <= 12 or len(logs) == 1
        assert logs.entries <= 20


def test_old_entries_leave_the_memory_again() -> None:
    logs = WindowLogs()
    for now in range(0, 100 * WINDOW, 100):
        logs.hit("s", policy(10), cost=1, now=now, window=WINDOW)
    assert logs.entries <= 20
