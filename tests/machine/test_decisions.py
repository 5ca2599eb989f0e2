"""Properties of the execution state machine: what it decides always fits the row, and never skips a step."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from medic import machine
from medic.machine import Decision, Recovered, Result, Skipped
from medic.playbook.document import Retry, Step
from medic.steps.base import AwaitApproval, Done, Failed, Park

NOW = datetime(2026, 11, 23, 9, 30, tzinfo=UTC)
PARKING = frozenset({"wait", "condition", "approval"})

moments = st.integers(-100_000, 100_000).map(lambda seconds: NOW + timedelta(seconds=seconds))
durations = st.integers(1, 100_000).map(lambda seconds: timedelta(seconds=seconds))
retries = st.builds(
    Retry,
    attempts=st.integers(1, 20),
    backoff=st.integers(0, 86_400 * 3_660).map(lambda seconds: timedelta(seconds=seconds)),
    factor=st.floats(1, 10),
    jitter=st.floats(0, 1),
    on=st.sampled_from([(), ("timeout",), ("5xx",), ("exit", "503")]),
)
results: st.SearchStrategy[Result] = st.one_of(
    st.builds(Done, st.just({"ok": True})),
    st.builds(
        Failed,
        st.sampled_from(["timeout", "http_503", "exit", "defect"]),
        st.just("No."),
        retryable=st.booleans(),
    ),
    st.builds(Park, moments, st.none() | st.just({"kind": "alert_resolved"})),
    st.builds(AwaitApproval, st.none() | durations, st.sampled_from(["approve", "reject"]), st.just("?")),
    st.builds(Skipped, st.just("no")),
    st.just(Recovered()),
)
chances = st.floats(0, 1, exclude_max=True)


@st.composite
def steps(draw: st.DrawFn, position: int = 0) -> Step:
    return Step(
        position=position,
        name=f"s{position}",
        title=f"s{position}",
        type=draw(st.sampled_from(["webhook", "script", "wait", "condition", "approval"])),
        spec=None,
        when=None,
        timeout=None,
        retry=draw(retries),
        on_failure=draw(st.sampled_from(["fail", "continue", "escalate"])),
        on_crash=draw(st.sampled_from(["retry", "fail", "ask"])),
        only_while="always",
        line=1,
    )


@st.composite
def playbooks(draw: st.DrawFn, most: int = 60) -> tuple[Step, ...]:
    return tuple(draw(steps(at)) for at in range(draw(st.integers(1, most))))


def decide(step: Step, result: Result, **values: Any) -> Decision:
    usual: dict[str, Any] = {
        "position": step.position,
        "step_count": 5,
        "tries": 0,
        "now": NOW,
        "chance": 0.5,
    }
    return machine.decide(step, result, **(usual | values))


def fits_the_row(decision: Decision, step_count: int) -> None:
    """The CHECKs of `executions`, `execution_steps` and `step_attempts`."""
    final = decision.state in {"completed", "failed", "cancelled"}
    assert final or decision.state in {"pending_approval", "running", "waiting"}
    assert final == (decision.due_at is None) == decision.is_final
    assert (decision.state == "waiting") == (decision.waiting_for is not None)
    assert decision.waiting_for in {None, "timer", "condition", "retry"}
    assert 0 <= decision.next_step <= step_count
    assert decision.outcome in {"completed", "failed", "parked", "skipped"}
    assert decision.step_state in {"completed", "failed", "skipped", "waiting"}
    assert decision.due_at is None or decision.due_at >= NOW


@given(steps(), results, st.integers(0, 4), st.integers(0, 25), chances)
def test_every_decision_fits_the_row(
    step: Step, result: Result, position: int, tries: int, chance: float
) -> None:
    decision = decide(step, result, position=position, tries=tries, chance=chance)
    fits_the_row(decision, 5)
    # It goes behind the step exactly when the step ended and the execution did not fail or recover there.
    ahead = decision.next_step - position
    assert ahead in {0, 1}
    if ahead:
        assert decision.step_ended
    if not decision.step_ended:
        assert not decision.is_final
    if decision.is_final and decision.state == "completed" and not isinstance(result, Recovered):
        assert decision.next_step == 5


@given(st.integers(0, 10), st.text(max_size=20))
def test_a_version_that_cannot_be_read_fails_the_execution(position: int, message: str) -> None:
    decision = machine.unreadable(position, message)
    fits_the_row(decision, position + 1)
    assert (decision.state, decision.next_step) == ("failed", position)


@given(playbooks(most=12), st.lists(results, max_size=80), chances)
def test_no_sequence_of_results_skips_a_step_or_goes_on_behind_a_failed_one(
    playbook: tuple[Step, ...], given_results: list[Result], chance: float
) -> None:
    position, tries = 0, 0
    ended: list[tuple[int, str]] = []
    for result in given_results:
        step = playbook[position]
        decision = decide(
            step, result, position=position, step_count=len(playbook), tries=tries, chance=chance
        )
        fits_the_row(decision, len(playbook))
        if decision.step_ended:
            ended.append((position, decision.step_state))
            if decision.step_state == "failed":
                assert decision.is_final or step.on_failure == "continue"
        tries = tries + decision.counts_try if decision.next_step == position else 0
        assert tries <= step.retry.attempts
        if decision.is_final:
            break
        assert decision.next_step == position + decision.step_ended
        position = decision.next_step
    assert [at for at, _ in ended] == list(range(len(ended)))


@given(steps(), st.booleans(), st.integers(0, 25))
def test_a_step_is_tried_no_more_often_than_its_retry_allows(step: Step, retryable: bool, tries: int) -> None:
    decision = decide(step, Failed("exit", "No.", retryable=retryable), tries=tries)
    again = decision.state == "waiting"
    assert again == (step.retry.covers("exit", retryable=retryable) and tries + 1 < step.retry.attempts)
    assert decision.counts_try


@given(retries, st.integers(1, 25), chances)
def test_a_pause_grows_within_its_jitter_and_ends_at_a_day(retry: Retry, tries: int, chance: float) -> None:
    pause = machine.backoff(retry, tries, chance=chance)
    assert timedelta(0) <= pause <= timedelta(days=1)
    plain = retry.backoff.total_seconds() * min(retry.factor ** (tries - 1), 1e6)
    least, most = plain * (1 - retry.jitter), plain * (1 + retry.jitter)
    assert min(least, 86_400) - 0.001 <= pause.total_seconds() <= most + 0.001


@given(st.integers(0, 10_000))
def test_the_grace_doubles_from_a_minute_to_ten(redispatches: int) -> None:
    grace = machine.grace(redispatches)
    assert timedelta(seconds=60) <= grace <= timedelta(minutes=10)
    assert grace <= machine.grace(redispatches + 1) <= 2 * grace


@given(steps(), st.integers(0, 10))
def test_the_third_loss_is_final_and_each_before_it_does_what_the_step_says(step: Step, losses: int) -> None:
    loss = machine.after_loss(step, losses=losses)
    if losses >= 2:
        assert (loss.verdict, loss.error["code"]) == ("fail", "lost_workers")
    else:
        assert (loss.verdict, loss.error["code"]) == (step.on_crash, "lost")


@given(playbooks())
def test_windows_cover_every_step_once_and_only_their_last_one_parks(playbook: tuple[Step, ...]) -> None:
    covered: list[int] = []
    while len(covered) < len(playbook):
        window = machine.window(playbook, start=len(covered), parked=False, parking=PARKING)
        assert 1 <= len(window) <= 20
        assert all(playbook[at].type not in PARKING for at in window[:-1])
        covered += window
    assert covered == list(range(len(playbook)))


@given(playbooks(), st.data())
def test_behind_a_step_that_parked_the_window_goes_on_to_the_next_that_parks(
    playbook: tuple[Step, ...], data: st.DataObject
) -> None:
    start = data.draw(st.integers(0, len(playbook) - 1))
    window = machine.window(playbook, start=start, parked=True, parking=PARKING)
    assert window[0] == start
    assert all(playbook[at].type not in PARKING for at in window[1:-1])
    if len(window) < 20 and window[-1] + 1 < len(playbook):
        assert len(window) > 1
        assert playbook[window[-1]].type in PARKING
