"""What a probe's answer means for the step in doubt."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from medic import machine
from medic.machine import judge_probe
from medic.playbook.document import Probe
from medic.steps.base import Done, Failed, Outcome, Park
from tests.machine.test_decisions import steps

NOW = datetime(2026, 11, 23, 9, 0, tzinfo=UTC)
DOUBT = {"epoch": 3, "since": "2026-11-23T08:59:00Z", "probing": True}

outcomes: st.SearchStrategy[Outcome] = st.one_of(
    st.just(Done({"status": 200})),
    st.just(Park(NOW + timedelta(seconds=5))),
    st.sampled_from(["http_404", "http_410", "http_503", "timeout", "cannot_probe"]).map(
        lambda code: Failed(code, "No.")
    ),
)
probes = st.builds(
    Probe,
    type=st.just("webhook"),
    spec=st.none(),
    interval=st.just(timedelta(seconds=10)),
    timeout=st.just(timedelta(minutes=5)),
    retry_on=st.sampled_from([(), ("404",), ("4xx",)]),
    fail_on=st.sampled_from([(), ("410",), ("timeout",)]),
    otherwise=st.sampled_from(["ask", "retry", "fail"]),
)


@given(probes, outcomes, steps(), st.integers(-30, 600), st.integers(1, 4))
def test_a_doubt_is_settled_or_stays_one_and_never_ends_by_chance(
    probe: Probe, outcome: Outcome, step: object, left_s: int, step_count: int
) -> None:
    until = NOW + timedelta(seconds=left_s)
    probed = judge_probe(probe, outcome, DOUBT, until=until, now=NOW)
    decision = machine.decide(
        step, probed, position=0, step_count=step_count, tries=0, now=NOW, chance=0.5  # type: ignore[arg-type]
    )  # fmt: skip
    if isinstance(outcome, Done):
        assert (probed.verdict, decision.step_state) == ("happened", "completed")
        return
    assert probed.verdict != "happened"
    words = {"http_404": {"404", "4xx"}, "http_410": {"410", "4xx"}, "timeout": {"timeout"}}
    named = words.get(outcome.code, set()) if isinstance(outcome, Failed) else set()
    if named & set(probe.retry_on):
        assert probed.verdict == "retry"
    elif named & set(probe.fail_on):
        assert probed.verdict == "fail"
    elif left_s > 0:
        assert probed.verdict == "ask"
        assert decision.due_at is not None
        assert NOW < decision.due_at <= min(NOW + probe.interval, until)
    else:
        assert probed.verdict == probe.otherwise
    match probed.verdict:
        case "retry":
            assert (decision.state, decision.waiting_for, decision.step_state) == (
                "waiting",
                "retry",
                "pending",
            )
            assert not decision.counts_try
        case "ask":
            assert (decision.state, decision.step_state, decision.waiting_for) == (
                "in_doubt",
                "in_doubt",
                None,
            )
            assert decision.doubt == DOUBT | {"probing": left_s > 0}
            assert decision.asks_of_doubt == (left_s <= 0)
        case _:
            assert decision.step_state == "failed"
    assert (decision.doubt is None) == (decision.state != "in_doubt")


@given(steps(), st.integers(0, 5))
def test_a_probe_that_says_it_failed_is_a_failure_that_no_retry_covers(step: object, tries: int) -> None:
    probe = Probe("webhook", None, timedelta(seconds=1), timedelta(seconds=9), (), ("410",), "ask")
    probed = judge_probe(probe, Failed("http_410", "Gone."), DOUBT, until=NOW, now=NOW)
    decision = machine.decide(
        step, probed, position=0, step_count=2, tries=tries, now=NOW, chance=0.5  # type: ignore[arg-type]
    )  # fmt: skip
    assert decision.step_state == "failed"
