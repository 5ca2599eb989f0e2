from __future__ import annotations

from medic.ratelimit import Decision, headers


def test_an_allowed_call_tells_policy_rest_and_reset() -> None:
    decision = Decision(
        "management", allowed=True, limit=300, remaining=299, reset_after=59.2, retry_after=0.0
    )
    assert headers(decision) == {
        "RateLimit-Policy": '"management";q=300;w=60',
        "RateLimit": '"management";r=299;t=60',
    }


def test_a_refused_call_tells_when_to_come_back_in_whole_seconds_rounded_up() -> None:
    decision = Decision("trigger", allowed=False, limit=10, remaining=0, reset_after=12.0, retry_after=0.2)
    assert headers(decision)["Retry-After"] == "1"
    decision = Decision("trigger", allowed=False, limit=10, remaining=0, reset_after=59.0, retry_after=41.1)
    assert headers(decision)["Retry-After"] == "42"
