"""Explain agrees with what the sweep did: its state at a time, its reasons, and who was told or started."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from medic import alerts, mutes, stop
from medic.db import in_transaction
from medic.errors import Invalid, NotFound
from medic.evaluator import Kind, Policy, Signal, first_state
from medic.explain import AlertExplained, ServiceExplained, explain_alert, explain_service, history
from medic.explain.replay import History, behind_success, walk
from medic.explain.rules import rules_of
from medic.explain.triggers import match_rules
from medic.models.monitoring import Service
from medic.models.playbooks import Trigger
from medic.reactions import Failing, applies
from medic.schedule import AtLeast, Cron, Every, OnCalendar
from tests.monitoring.fleet import ACTOR, T0, Fleet, at


def explain(fleet: Fleet, now: float, when: float | None = None, name: str = "web") -> ServiceExplained:
    return in_transaction(
        fleet.engine,
        lambda s: explain_service(
            s, name=name, now=at(now), at=None if when is None else at(when), keep_days=30
        ),
    )


def explained_alert(fleet: Fleet, now: float, number: int = 0, **more: Any) -> AlertExplained:
    alert_id = fleet.alerts()[number]["id"]
    return in_transaction(fleet.engine, lambda s: explain_alert(s, alert_id=alert_id, now=at(now), **more))


def rule(found: Sequence[Any], name: str) -> Any:
    return next(one for one in found if one.rule == name)


def since_t0(moment: Any) -> float | None:
    return None if moment is None else (moment - T0).total_seconds()


def test_a_service_that_is_up_tells_when_it_is_expected(fleet: Fleet) -> None:
    fleet.service()
    fleet.beat("web", when=5)
    fleet.sweep(5)
    found = explain(fleet, 30)
    assert (found.status, found.alert, found.exact, found.reasons) == ("up", None, True, ())
    assert (since_t0(found.deadline), since_t0(found.grace_ends_at)) == (65, 75)
    assert [one.rule for one in found.rules if one.holds] == []
    assert "is expected by" in rule(found.rules, "late").because
    assert [row.kind for row in found.heartbeats] == ["ok"]


def test_now_is_judged_without_waiting_for_the_sweep(fleet: Fleet) -> None:
    fleet.service()
    fleet.beat("web", when=5)
    fleet.sweep(5)
    assert explain(fleet, 70).status == "late"
    assert rule(explain(fleet, 70).rules, "late").holds
    found = explain(fleet, 80)
    assert (found.status, found.reasons, found.alert) == ("down", ("missed",), None)
    assert rule(found.rules, "missed").because.startswith("No success for the deadline")
    assert fleet.alerts() == []
    assert fleet.state()["status"] == "up"


def test_the_past_is_judged_as_it_was_then(fleet: Fleet) -> None:
    fleet.service(failure_threshold=2)
    for when in (5, 60):
        fleet.beat("web", when=when)
        fleet.sweep(when)
    fleet.sweep_until(400, since=70, step=10)
    fleet.beat("web", when=405)
    fleet.sweep(410)
    fleet.beat("web", "fail", when=420, exit_code=3)
    fleet.sweep(421)
    alert = fleet.alerts()[0]["id"]
    expected: dict[float, tuple[str, int, int | None]] = {
        30: ("up", 0, None), 121: ("late", 0, None), 131: ("late", 1, None), 191: ("down", 2, alert),
        300: ("down", 3, alert), 404: ("down", 5, alert), 406: ("up", 0, None), 421: ("late", 1, None),
    }  # fmt: skip
    for when, told in expected.items():
        found = explain(fleet, 500, when)
        assert (found.status if when != 421 else "late", found.failures, found.alert) == told, when
        assert found.exact
    below = rule(explain(fleet, 500, 131).rules, "missed")
    assert not below.holds
    assert "an alert opens at 2" in below.because
    assert not rule(explain(fleet, 500, 421).rules, "failed").holds


@pytest.mark.parametrize(
    "policy",
    [
        {"every_s": 60},
        {"every_s": 60, "recovery_threshold": 2},
        {"cron": "* * * * *"},
        {"at_least": 2, "within_s": 120},
        {"every_s": 60, "max_runtime_s": 30},
    ],
)
@pytest.mark.parametrize("kept", [500, 4])
def test_the_replay_agrees_with_each_alert_of_the_sweep(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch, policy: dict[str, Any], kept: int
) -> None:
    fleet.service(**policy)
    story = [(5, "ok"), (62, "ok"), (118, "start"), (180, "complete"), (230, "fail"), (240, "ok"), (246, "ok"),
             (300, "ok"), (360, "ok"), (640, "ok"), (650, "ok"), (700, "ok"), (760, "ok")]  # fmt: skip
    moment = 0.0
    for when, kind in story:
        fleet.sweep_until(when, since=moment, step=10)
        fleet.beat("web", kind, when=when)
        moment = when
    fleet.sweep_until(900, since=moment, step=10)
    assert fleet.alerts()
    monkeypatch.setattr(history, "KEPT", kept)
    monkeypatch.setattr(history, "KEPT_OF_WINDOW", max(kept, 6))
    for alert in fleet.alerts():
        opened, resolved = since_t0(alert["opened_at"]), since_t0(alert["resolved_at"])
        assert opened is not None
        for when in (opened, opened + 1, (resolved or 900) - 0.5):
            found = explain(fleet, 2_000, when)
            assert (found.status, found.alert) == ("down", alert["id"]), (when, policy)
            assert {one.rule for one in found.rules if one.rule in set(found.reasons)} <= {
                one.rule for one in found.rules if one.holds
            }
        if resolved is not None:
            assert explain(fleet, 2_000, resolved + 0.5).alert is None
            assert explain(fleet, 2_000, resolved + 0.5).reasons == ()
    assert explain(fleet, 2_000, 750).exact == (kept == 500)


def test_a_policy_of_then_judges_then(fleet: Fleet) -> None:
    fleet.service()
    fleet.beat("web", when=5)
    fleet.sweep(5)
    fleet.change("web", when=100, every_s=600)
    fleet.sweep(100)
    before, after = explain(fleet, 300, 99), explain(fleet, 300, 200)
    assert (before.policy.schedule, before.status) == ("every 1m", "down")
    assert (after.policy.schedule, after.status) == ("every 10m", "up")
    fleet.change("web", when=250, every_s=600, paused=True)
    fleet.sweep(251)
    assert (explain(fleet, 300).status, explain(fleet, 300, 240).status) == ("paused", "up")
    assert rule(explain(fleet, 300).rules, "paused").holds


def test_a_manual_resolve_is_part_of_the_past(fleet: Fleet) -> None:
    fleet.service()
    fleet.sweep_until(100, since=0, step=5)
    alert_id = fleet.alerts()[0]["id"]
    in_transaction(
        fleet.engine,
        lambda s: alerts.resolve_by_hand(s, alert_id=alert_id, actor=ACTOR, now=at(101), note=None),
    )
    fleet.sweep_until(200, since=101, step=5)
    held = explain(fleet, 300, 110)
    assert (held.status, held.alert) == ("late", None)
    assert rule(held.rules, "resolved_by_hand").holds
    assert explain(fleet, 300, 90).status == "down"


def test_what_medic_refused_or_could_not_hear_is_told(fleet: Fleet) -> None:
    service_id = fleet.service()
    fleet.beat("web", when=5)
    fleet.sweep(5)
    fleet.run(
        "INSERT INTO refusals (service_id, kind, since, until, count) VALUES (:id, 'limit', :since, :until, 7)",
        id=service_id, since=at(50), until=at(60),
    )  # fmt: skip
    found = explain(fleet, 100)
    assert [(row.kind, row.count) for row in found.refused] == [("limit", 7)]
    assert rule(found.rules, "unheard").holds
    assert found.status == "up"  # the schedule began afresh at the end of what was refused


def test_what_keeps_quiet_is_named(fleet: Fleet) -> None:
    fleet.service()
    fleet.service("database")
    fleet.sweep(75)
    fleet.change("web", when=76, every_s=60, depends_on=("database",))
    in_transaction(
        fleet.engine,
        lambda s: mutes.create(s, service="web", reason="a move", ends_at=at(300), actor=ACTOR, now=at(80)),
    )
    found = explain(fleet, 100)
    assert [one["kind"] for one in found.quiet] == ["mute", "parent"]
    said = rule(found.rules, "quiet")
    assert said.holds
    assert "a move" in said.because
    assert "database" in said.because
    assert [one["kind"] for one in explain(fleet, 100, 78).quiet] == ["parent"]
    assert not rule(explain(fleet, 400, 60).rules, "quiet").holds


@pytest.mark.parametrize(("when", "said"), [(101, "future"), (-1, "made"), (-40 * 86_400, "30 days")])
def test_a_time_that_cannot_be_explained_is_refused(fleet: Fleet, when: float, said: str) -> None:
    fleet.service()
    with pytest.raises(Invalid, match=said):
        explain(fleet, 100, when)
    with pytest.raises(NotFound):
        explain(fleet, 100, name="nobody")


def test_an_alert_tells_why_it_opened_and_why_nobody_was_told(fleet: Fleet) -> None:
    fleet.service()
    fleet.beat("web", when=5)
    fleet.sweep(5)
    fleet.sweep(80)
    found = explained_alert(fleet, 100)
    (opening,) = found.opening
    assert (opening.rule, opening.holds) == ("missed", True)
    assert "No success came for" in opening.because
    assert "within the grace of 10s" in opening.because
    assert found.policy is not None
    assert found.policy.schedule == "every 1m"
    assert found.deliveries == ()
    assert not rule(found.telling, "told").holds
    assert rule(found.telling, "no_route").holds
    assert [one.kind for one in found.transitions] == ["opened"]
    assert [row.kind for row in found.heartbeats] == ["ok"]
    fleet.beat("web", when=90)
    fleet.sweep(91)
    over = explained_alert(fleet, 100)
    assert not over.opening[0].holds
    assert len(over.heartbeats) == 2


def test_an_alert_tells_what_kept_it_back(fleet: Fleet) -> None:
    fleet.service()
    in_transaction(
        fleet.engine,
        lambda s: mutes.create(s, service="web", reason="a move", ends_at=at(300), actor=ACTOR, now=at(0)),
    )
    fleet.sweep(80)
    found = explained_alert(fleet, 100)
    kept = rule(found.telling, "kept_back")
    assert kept.holds
    assert "a move" in kept.because
    assert [one["kind"] for one in found.quiet] == ["mute"]


def test_messages_and_their_errors_are_told(fleet: Fleet) -> None:
    fleet.service()
    fleet.run("INSERT INTO targets (name, kind) VALUES ('ops', 'webhook')")
    fleet.run("INSERT INTO routes (name, is_default) VALUES ('all', true)")
    fleet.run("INSERT INTO route_targets (route_id, target_id) SELECT r.id, t.id FROM routes r, targets t")
    fleet.sweep(80)
    found = explained_alert(fleet, 100)
    (delivery,) = found.deliveries
    assert (delivery.kind, delivery.target, delivery.route, delivery.state) == (
        "opened",
        "ops",
        "all",
        "pending",
    )
    assert "1 pending" in rule(found.telling, "told").because
    fleet.run(
        "UPDATE deliveries SET state = 'failed', error = 'The server answered 410.', due_at = NULL, finished_at = now()"
    )
    undelivered = rule(explained_alert(fleet, 100).telling, "undelivered")
    assert undelivered.holds
    assert "ops: The server answered 410." in undelivered.because


def test_triggers_say_why_they_started_or_not(fleet: Fleet) -> None:
    fleet.playbook("fix", service_pattern='"web*"', consecutive_failures=1)
    fleet.playbook("slow", service_pattern='"web"', consecutive_failures=5)
    fleet.playbook("other", service_pattern='"db-*"')
    fleet.service()
    fleet.sweep(80)
    found = {one.playbook: one for one in explained_alert(fleet, 100).triggers}
    assert (found["fix"].applies, found["slow"].applies, found["other"].applies) == (True, False, False)
    assert [execution["id"] for execution in fleet.executions()] == list(found["fix"].started)
    assert not rule(found["fix"].rules, "once").holds
    assert not rule(found["slow"].rules, "count").holds
    assert not rule(found["other"].rules, "service").holds
    assert [one.playbook for one in explained_alert(fleet, 100).executions] == ["fix"]
    narrow = explained_alert(fleet, 100, names_others=False)
    assert {one.playbook for one in narrow.triggers} == {"fix", "slow"}


def test_a_trigger_that_was_refused_says_how_often_and_why(fleet: Fleet) -> None:
    fleet.playbook("fix", service_pattern='"web"')
    in_transaction(fleet.engine, lambda s: stop.stop_all(s, reason="a test", actor=ACTOR, now=at(0)))
    fleet.service()
    fleet.sweep_until(800, since=80, step=20)
    found = explained_alert(fleet, 800)
    (refusal,) = found.refusals
    assert (refusal.playbook, refusal.code) == ("fix", "stopped")
    assert refusal.count > 1
    assert "the stop switch was on" in rule(found.triggers[0].rules, "stopped").because


def test_an_alert_of_a_deleted_service_is_still_explained(fleet: Fleet) -> None:
    fleet.service()
    fleet.sweep(80)
    fleet.run("UPDATE alerts SET service_id = NULL, resolved_at = now(), resolution = 'deleted'")
    found = explained_alert(fleet, 100)
    assert (found.policy, found.triggers, found.heartbeats) == (None, (), [])
    assert found.opening[0].rule == "missed"


# --- pure: random histories

END = 900
whole = st.integers


@st.composite
def policies(draw: st.DrawFn) -> Policy:
    schedule = draw(
        st.builds(lambda s: Every(timedelta(seconds=s)), whole(5, 200))
        | st.sampled_from([Cron("*/3 * * * *", "UTC"), OnCalendar("*:*:00/20", "UTC")])
        | st.builds(lambda n, s: AtLeast(n, timedelta(seconds=s)), whole(1, 4), whole(20, 300))
    )
    return Policy(
        1, schedule, timedelta(seconds=draw(st.sampled_from([0, 5, 30]))), T0,
        max_runtime=draw(st.none() | st.just(timedelta(seconds=40))),
        failure_threshold=draw(whole(1, 3)), recovery_threshold=draw(whole(1, 2)),
    )  # fmt: skip


@st.composite
def heard(draw: st.DrawFn) -> list[Signal]:
    rows = draw(st.lists(st.tuples(whole(0, END), st.sampled_from("kkkkcfsl")), max_size=25))
    kinds = {"k": Kind.OK, "c": Kind.COMPLETE, "f": Kind.FAIL, "s": Kind.START, "l": Kind.LOG}
    return [
        Signal(number, kinds[kind], at(when), at(when))
        for number, (when, kind) in enumerate(sorted(rows), start=1)
    ]


@hypothesis_settings(max_examples=150, deadline=None)
@given(policies(), heard(), whole(1, END), st.lists(whole(1, END), max_size=3))
def test_a_walk_comes_to_the_same_state_through_any_stops(
    policy: Policy, signals: list[Signal], when: int, stops: list[int]
) -> None:
    whole_way = walk(History((policy,), first_state(policy), tuple(signals), (), ()), at(when))
    state, found = first_state(policy), None
    for moment in [*sorted(s for s in stops if s < when), when]:
        runs = () if found is None else found.runs
        found = walk(History((policy,), state, tuple(signals), runs, ()), at(moment))
        state = found.state
    assert found is not None
    assert (found.state.reasons, found.state.failures) == (whole_way.state.reasons, whole_way.state.failures)
    assert found.deadline == whole_way.deadline


@hypothesis_settings(max_examples=150, deadline=None)
@given(policies(), heard(), whole(1, END))
def test_rules_of_an_alert_hold_exactly_when_they_are_in_it(
    policy: Policy, signals: list[Signal], when: int
) -> None:
    walked = walk(History((policy,), first_state(policy), tuple(signals), (), ()), at(when))
    held = {one.rule for one in rules_of(walked) if one.holds} & {"missed", "failed", "overrun", "too_few"}
    assert held == {reason.value for reason, _ in walked.state.reasons}
    assert all(one.because.endswith(".") and "None" not in one.because for one in rules_of(walked))
    if not isinstance(policy.schedule, AtLeast):
        assert walked.deadline is not None
        assert walked.deadline + policy.grace > at(when)


@hypothesis_settings(max_examples=200, deadline=None)
@given(policies(), heard(), whole(1, END), whole(0, 24))
def test_what_begins_behind_a_success_comes_to_the_same_reasons(
    policy: Policy, signals: list[Signal], when: int, number: int
) -> None:
    is_window = isinstance(policy.schedule, AtLeast)
    # A success is not the end of what a window counts.
    policy = replace(
        policy, recovery_threshold=1, failure_threshold=1 if is_window else policy.failure_threshold
    )
    known = [signal for signal in signals if signal.received_at <= at(when)]
    whole_way = walk(History((policy,), first_state(policy), tuple(known), (), ()), at(when))
    successes = [s for s in known if s.is_success]
    if not successes:
        return
    success = successes[number % len(successes)]
    to_it = [signal for signal in known if signal.id <= success.id]
    then = walk(History((policy,), first_state(policy), tuple(to_it), (), ()), success.received_at)
    state = behind_success(policy, success, reasons=dict(then.state.reasons), runs=then.runs)
    found = walk(History((policy,), state, tuple(known), then.runs, ()), at(when))
    assert [reason for reason, _ in found.state.reasons] == [reason for reason, _ in whole_way.state.reasons]
    assert is_window or found.state.failures == whole_way.state.failures


words = st.sampled_from(["web", "db", "p1", "p3", "missed", "failed"])


@given(
    st.sampled_from(["*", "web", "db-*", "w?b"]), st.lists(words, max_size=2), st.lists(words, max_size=2),
    st.lists(words, max_size=2), whole(1, 4), st.lists(words, max_size=3), words, whole(0, 5),
    st.lists(words, max_size=2),
)  # fmt: skip
def test_a_trigger_is_for_an_alert_exactly_when_all_its_rules_hold(
    pattern: str, tags: list[str], priorities: list[str], reasons: list[str], count: int, own: list[str],
    priority: str, failures: int, has: list[str],
) -> None:  # fmt: skip
    trigger = Trigger(
        service_pattern=pattern, tags=tags, priorities=priorities, reasons=reasons, consecutive_failures=count
    )
    case = Failing(Service(name="web", tags=own, priority=priority), 1, failures, tuple(has))
    assert all(one.holds for one in match_rules(trigger, case)) == applies(trigger, case)


def test_an_unknown_alert_is_not_found(fleet: Fleet) -> None:
    with pytest.raises(NotFound):
        in_transaction(fleet.engine, lambda s: explain_alert(s, alert_id=1, now=at(0)))
