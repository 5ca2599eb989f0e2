"""Keys that steps share: timeouts, retries, what a crash does."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest

from medic.errors import Invalid, Problem
from medic.playbook.document import Parsed
from medic.playbook.grammar import parse
from medic.steps.base import StepType

Read = Callable[[str], Parsed]
Problems = Callable[[str], tuple[Problem, ...]]


@pytest.mark.parametrize(
    ("keys", "wanted"),
    [
        ("type: webhook, url: 'https://a.example/'", "ask"), ("type: webhook, url: 'https://a.example/', method: get", "retry"),
        ("type: webhook, url: 'https://a.example/', method: DELETE", "retry"), ("type: webhook, url: 'https://a.example/', method: PATCH", "ask"),
        ("type: webhook, url: 'https://a.example/', idempotent: true", "retry"), ("type: webhook, url: 'https://a.example/', method: PUT, idempotent: false", "ask"),
        ("type: webhook, url: 'https://a.example/', on_crash: fail", "fail"), ("type: script, script: x", "ask"),
        ("type: script, script: x, on_crash: retry", "retry"), ("type: wait, duration: 1s", "retry"),
        ("type: condition, check: alert_resolved", "retry"), ("type: approval", "retry"),
    ],
)  # fmt: skip
def test_what_a_crash_does_follows_from_the_step(keys: str, wanted: str, read: Read) -> None:
    assert read(f"name: a\nsteps: [{{name: s, {keys}}}]").playbook.steps[0].on_crash == wanted


def test_a_probe_stands_beside_a_step_whose_doubt_would_go_to_a_human(read: Read, problems: Problems) -> None:
    step = "name: a\nsteps: [{name: s, type: script, script: x, probe: {%s}%s}]"
    by_url = "url: 'https://a.example/${EXECUTION_ID}'"
    probe = read(step % (f"{by_url}, retry_on: [404, 4xx], fail_on: 410", "")).playbook.steps[0].probe
    assert probe is not None
    assert (probe.type, probe.spec.request.method) == ("webhook", "GET")
    assert (probe.interval, probe.timeout, probe.otherwise) == (
        timedelta(seconds=10),
        timedelta(minutes=5),
        "ask",
    )
    assert (probe.retry_on, probe.fail_on) == (("404", "4xx"), ("410",))
    probe = (
        read(step % ("check: alert_resolved, timeout: 1h, interval: 1m, otherwise: retry", ""))
        .playbook.steps[0]
        .probe
    )
    assert probe is not None
    assert (probe.type, probe.interval, probe.timeout) == (
        "condition",
        timedelta(minutes=1),
        timedelta(hours=1),
    )
    # Whoever can find out does not guess.
    put = "name: a\nsteps: [{name: s, type: webhook, method: PUT, url: 'https://a.example/', probe: {%s}}]"
    assert read(put % by_url).playbook.steps[0].on_crash == "ask"
    for keys, more, path in (
        (by_url, ", on_crash: retry", "steps[0].probe"),
        (f"{by_url}, method: POST", "", "steps[0].probe.method"),
        (f"{by_url}, retry_on: [sometimes]", "", "steps[0].probe.retry_on"),
        ("type: script, script: x", "", "steps[0].probe.type"),
        (f"{by_url}, tries: 3", "", "steps[0].probe.tries"),
        ("type: webhook", "", "steps[0].probe"),
        ("url: 'https://a.example/${steps.later.id}'", "", "steps[0].probe.url"),
    ):
        assert [problem.path for problem in problems(step % (keys, more))] == [path], keys
    found = problems(f"name: a\nsteps: [{{name: s, type: wait, duration: 5s, probe: {{{by_url}}}}}]")
    assert [problem.path for problem in found] == ["steps[0].probe"]


def test_a_step_without_effect_takes_neither_retry_nor_on_crash(problems: Problems) -> None:
    found = problems("name: a\nsteps: [{name: s, type: wait, duration: 5s, retry: 3, on_crash: ask}]")
    assert [problem.path for problem in found] == ["steps[0].retry", "steps[0].on_crash"]


def test_a_step_longer_than_the_workers_cap_is_refused(types: dict[str, StepType]) -> None:
    text = "name: a\nsteps: [{name: s, type: script, script: x, timeout: 6m}]"
    with pytest.raises(Invalid, match="MEDIC_STEP_TIMEOUT_CAP"):
        parse(text, types)
    assert parse(text, types, longest_step=timedelta(minutes=6)).playbook.steps[0].timeout == timedelta(
        minutes=6
    )
    # A condition holds no worker, so its time is its own.
    condition = parse(text.replace("script, script: x", "condition, check: alert_resolved"), types)
    assert condition.playbook.steps[0].timeout == timedelta(minutes=6)


@pytest.mark.parametrize(
    ("text", "code", "retryable", "wanted"),
    [
        ("3", "timeout", True, True), ("3", "http_400", False, False), ("{on: [timeout]}", "timeout", False, True),
        ("{on: [timeout]}", "connect", True, False), ("{on: [5xx, 409]}", "http_502", False, True), ("{on: [5xx, 409]}", "http_409", False, True),
        ("{on: [4xx]}", "http_500", True, False), ("{on: exit}", "exit", False, True), ("{on: [timeout]}", "egress_refused", False, False),
    ],
)  # fmt: skip
def test_a_retry_covers_what_it_names(
    text: str, code: str, retryable: bool, wanted: bool, read: Read
) -> None:
    step = read(f"name: a\nsteps: [{{name: s, type: script, script: x, retry: {text}}}]").playbook.steps[0]
    assert step.retry.attempts == 3
    assert step.retry.covers(code, retryable=retryable) is wanted


@pytest.mark.parametrize(
    "text",
    ["0", "21", "many", "{attempts: 0}", "{on: [sometimes]}", "{factor: 0.5}", "{jitter: 2}", "{backof: 2s}"],
)
def test_another_retry_is_refused(text: str, problems: Problems) -> None:
    (problem,) = problems(f"name: a\nsteps: [{{name: s, type: script, script: x, retry: {text}}}]")
    assert problem.path.startswith("steps[0].retry")


def test_every_duration_form_is_read(read: Read) -> None:
    for text, seconds in {"90": 90, "90s": 90, "5m": 300, "1h30m": 5400, "'10'": 10, "1d": 86400}.items():
        step = read(f"name: a\nsteps: [{{name: s, type: wait, duration: {text}}}]").playbook.steps[0]
        assert step.spec.duration == timedelta(seconds=seconds)


def test_a_condition_needs_no_quotes_in_a_block(read: Read) -> None:
    when = """${steps.check.body.state} in ["down", 'stuck'] and not ${SERVICE_NAME} matches "canary-*\""""
    step = read(
        "name: a\nsteps:\n"
        "  - {name: check, type: webhook, url: 'https://a.example/'}\n"
        f"  - name: w\n    type: wait\n    duration: 5s\n    when: {when}\n"
    ).playbook.steps[1]
    assert step.when is not None
    assert step.when.source == when
