from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from medic.errors import Invalid, Problem
from medic.playbook.document import Approval, Concurrency, Parsed, Retry, Trigger, Variable
from medic.playbook.grammar import parse
from medic.playbook.scope import Scope
from medic.steps.base import StepType

Read = Callable[[str], Parsed]
Problems = Callable[[str], tuple[Problem, ...]]
WAIT = "steps: [{name: w, type: wait, duration: 5s}]\n"


def test_the_example_of_the_documentation_is_valid(types: dict[str, StepType]) -> None:
    page = (Path(__file__).parents[2] / "docs" / "playbooks.md").read_text()
    example = page.split("```yaml\n", 1)[1].split("```", 1)[0]
    parsed = parse(example, types)
    playbook = parsed.playbook
    assert parsed.warnings == ()
    assert playbook.trigger == Trigger("worker-*", consecutive_failures=3, cooldown=timedelta(minutes=15))
    assert playbook.approval == Approval("none")
    assert playbook.concurrency == Concurrency(1, 5)
    assert playbook.lock is not None
    assert playbook.lock.render(Scope(variables={"HOST": "w1"})).value == "host-w1"
    assert playbook.variables == {"HOST": Variable("HOST", required=False, default="w1")}
    restart, settle, verify = playbook.steps
    assert (restart.timeout, restart.on_crash) == (timedelta(seconds=30), "retry")
    assert restart.retry == Retry(attempts=3, backoff=timedelta(seconds=2), factor=2)
    assert (settle.type, settle.timeout, settle.on_crash) == ("wait", None, "retry")
    assert (verify.timeout, verify.on_failure, verify.position) == (timedelta(minutes=6), "escalate", 2)


def test_every_form_of_the_original_is_valid(read: Read) -> None:
    parsed = read("""
        name: complete-playbook
        description: Everything that the original knew
        approval: required
        version: 2
        steps:
          - name: call-api
            type: webhook
            url: https://api.example.com/restart
            method: POST
            headers:
              Authorization: Bearer ${API_KEY}
            body:
              service: ${SERVICE_NAME}
            success_codes: [200, 201]
            timeout: 60s
          - name: from-variable
            type: webhook
            url: ${BASE_URL}/restart
            timeout: 0
          - name: wait-for-restart
            type: wait
            duration: 30
          - name: run-healthcheck
            type: script
            script: healthcheck.py
            parameters:
              target: ${SERVICE_NAME}
            timeout: 2m
          - name: by-other-key
            type: script
            script_name: cleanup
          - name: verify-heartbeat
            type: condition
            check: heartbeat_received
            timeout: 5m
            on_failure: escalate
            parameters: {min_count: 2, status: UP, service_id: 9}
    """)
    steps = parsed.playbook.steps
    assert [step.name for step in steps][0::5] == ["call-api", "verify-heartbeat"]
    assert steps[1].timeout == timedelta(seconds=30)
    assert steps[2].spec.duration == timedelta(seconds=30)
    assert (steps[3].spec.name, steps[4].spec.name) == ("healthcheck.py", "cleanup")
    assert steps[4].timeout == timedelta(minutes=1)
    assert (steps[5].spec.min_count, steps[5].spec.status, steps[5].spec.service_id) == (2, "UP", 9)
    assert parsed.playbook.approval.mode == "required"
    assert [warning.message.split()[0] for warning in parsed.warnings] == ["${API_KEY}", "${BASE_URL}"]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("none", Approval()), ("no", Approval()), ("off", Approval()), ("required", Approval("required")), ("yes", Approval("required")),
        ("timeout:10m", Approval("timeout", timedelta(minutes=10))), ('"timeout: 90"', Approval("timeout", timedelta(seconds=90))),
        ("", Approval()), ("~", Approval()),
    ],
)  # fmt: skip
def test_approval_reads_each_form(text: str, wanted: Approval, read: Read) -> None:
    assert read(f"name: a\napproval: {text}\n{WAIT}").playbook.approval == wanted


@pytest.mark.parametrize("text", ["maybe", "timeout", "timeout:0m", "timeout:x", "[none]"])
def test_another_approval_is_refused(text: str, problems: Problems) -> None:
    (problem,) = problems(f"name: a\napproval: {text}\n{WAIT}")
    assert (problem.path, problem.line, problem.column) == ("approval", 2, 11)


def test_all_problems_come_at_once_in_order_with_places_and_suggestions(problems: Problems) -> None:
    found = problems("""
        name: a
        aproval: none
        trigger: {service_patern: "x"}
        steps:
          - name: one
            type: webhok
            anything: goes
          - name: two
            type: webhook
            url: https://a.example/${steps.three.body}
            timeout: 5x
            retries: 3
          - name: two
            type: wait
            duration: 0
            duration: 5s
          - name: three
            type: announce
    """)
    assert [(p.path, p.line, p.column) for p in found] == [
        ("aproval", 2, 1),
        ("trigger", 3, 10),
        ("trigger.service_patern", 3, 11),
        ("steps[0].type", 6, 11),
        ("steps[1].url", 10, 28),
        ("steps[1].timeout", 11, 14),
        ("steps[1].retries", 12, 5),
        ("steps[2].name", 13, 11),
        ("steps[2].duration", 15, 15),
        ("steps[2].duration", 16, 5),
        ("steps[3].type", 18, 11),
    ]
    messages = [p.message for p in found]
    assert messages[0] == "unknown key 'aproval'; did you mean 'approval'?"
    assert messages[2].endswith("did you mean 'service_pattern'?")
    assert messages[3] == "unknown step type 'webhok'; did you mean 'webhook'?"
    assert messages[4] == "${steps.three.body}: 'three' has not run yet at this step"
    assert messages[6].endswith("did you mean 'retry'?")
    assert messages[9] == "the key 'duration' is there twice"
    assert (
        messages[10]
        == "unknown step type 'announce'; known: approval, condition, notify, script, wait, webhook"
    )


def test_the_error_says_where_in_its_text(types: dict[str, StepType]) -> None:
    with pytest.raises(
        Invalid,
        match=r"^line 2, column 1: stepz: unknown key 'stepz'; did you mean 'steps'\?$",
    ):
        parse("name: a\nstepz: []\nsteps: [{name: w, type: wait, duration: 5s}]", types)


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("name: a", ""), ("name: a\nsteps: []", "steps"), ("name: a\nsteps: {}", "steps"), ("name: a\nsteps: [x]", "steps[0]"),
        (f"name: ''\n{WAIT}", "name"), (f"name: '!!'\n{WAIT}", "name"), (WAIT, ""), ("[]", ""), (f"name: a\nmetadata: [1]\n{WAIT}", "metadata"),
        (f"name: a\nversion: x\n{WAIT}", "version"), (f"name: a\ndeadline: never\n{WAIT}", "deadline"), (f"name: a\ndeadline: 0\n{WAIT}", "deadline"),
        (f"name: a\nconcurrency: {{per_service: 0}}\n{WAIT}", "concurrency.per_service"), (f"name: a\nlock: '${{secrets.X}}'\n{WAIT}", "lock"),
        (f"name: a\nlock: '${{steps.w.x}}'\n{WAIT}", "lock"), (f"name: a\nvariables: {{A-B: 1}}\n{WAIT}", "variables.A-B"),
        (f"name: a\nvariables: {{ALERT_ID: 1}}\n{WAIT}", "variables.ALERT_ID"), (f"name: a\ntrigger: {{}}\n{WAIT}", "trigger"),
        (f"name: a\nvariables: {{A: {{default: 1, required: true}}}}\n{WAIT}", "variables.A.required"),
        (f"name: a\ntrigger: {{tags: [x], reasons: [lost]}}\n{WAIT}", "trigger.reasons"), (f"name: a\ntrigger: {{tags: [x], priorities: [p9]}}\n{WAIT}", "trigger.priorities"),
        ("name: a\nsteps: [{name: w, type: wait}]", "steps[0]"), ("name: a\nsteps: [{name: w, type: wait, duration: 5s, timeout: 5s}]", "steps[0].timeout"),
        ("name: a\nsteps: [{name: w, type: wait, duration: 5s, when: 'x =='}]", "steps[0].when"),
        ("name: a\nsteps: [{name: w, type: wait, duration: 5s, on_failure: explode}]", "steps[0].on_failure"),
        ("name: a\nsteps: [{name: w, type: wait, duration: 5s, only_while: open}]", "steps[0].only_while"),
        ("name: a\nsteps: [{type: wait, duration: 5s}]", "steps[0]"), ("name: a\nsteps: [{name: w, duration: 5s}]", "steps[0]"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_once(text: str, path: str, problems: Problems) -> None:
    assert path in {problem.path for problem in problems(text)}
    assert len(problems(text)) <= 2


def test_all_parts_beside_the_steps_are_read(read: Read) -> None:
    playbook = read(f"""
        name: a.b_c-1
        deadline: 1h30m
        trigger: {{service_pattern: "WEB-*", tags: [eu, db], priorities: p1, reasons: [missed, too_few], repeat_every: 10m, mode: shadow}}
        variables: {{HOST: {{required: true, description: Which one}}, N: 3, LIST: {{default: [1, x]}}, BARE: , EMPTY: {{}}}}
        metadata: {{owner: sre, nested: {{on: [1, 2.5, ~, yes, 2026-01-01]}}}}
        {WAIT}""").playbook
    assert playbook.deadline == timedelta(minutes=90)
    assert playbook.trigger == Trigger(
        "web-*",
        ("eu", "db"),
        ("p1",),
        ("missed", "too_few"),
        1,
        timedelta(0),
        timedelta(minutes=10),
        "shadow",
    )
    assert playbook.variables == {
        "HOST": Variable("HOST", required=True, description="Which one"),
        "N": Variable("N", required=False, default=3),
        "LIST": Variable("LIST", required=False, default=[1, "x"]),
        "BARE": Variable("BARE", required=True),
        "EMPTY": Variable("EMPTY", required=True),
    }
    assert playbook.metadata == {"owner": "sre", "nested": {"on": [1, 2.5, None, True, "2026-01-01"]}}


def test_names_of_the_original_are_folded_with_a_warning(read: Read) -> None:
    parsed = read("""
        name: Restart Web Süd
        steps:
          - {name: Wait a bit, type: wait, duration: 5s}
          - {name: wait-a-bit, type: wait, duration: 5s}
          - {name: "wait a bit!", type: wait, duration: 5s}
    """)
    assert (parsed.playbook.name, parsed.playbook.title) == ("restart-web-sud", "Restart Web Süd")
    assert [step.name for step in parsed.playbook.steps] == ["wait-a-bit-2", "wait-a-bit", "wait-a-bit-3"]
    assert parsed.playbook.steps[0].title == "Wait a bit"
    assert [warning.path for warning in parsed.warnings] == ["name", "steps[0].name", "steps[2].name"]


def test_an_undeclared_name_is_a_warning_at_its_own_column(read: Read) -> None:
    (warning,) = read("""
        name: a
        variables: {HOST: w1}
        steps:
          - name: s
            type: webhook
            url: https://a.example/
            body:
              text: "on ${HOST}, for ${SERVICE_NAM} since ${ALERT_ID}"
    """).warnings
    assert (warning.path, warning.line, warning.column) == ("steps[0].body.text", 8, 30)
    assert (
        warning.message
        == "${SERVICE_NAM} is neither built in nor declared under variables; did you mean 'SERVICE_NAME'?"
    )


def test_a_default_is_no_template_and_says_so(read: Read) -> None:
    (warning,) = read(f"name: a\nvariables: {{A: '${{secrets.X}}'}}\n{WAIT}").warnings
    assert "taken as it is" in warning.message


def test_a_step_may_use_only_the_results_of_earlier_steps(read: Read, problems: Problems) -> None:
    text = """
        name: a
        steps:
          - {name: one, type: webhook, url: "https://a.example/"}
          - {name: two, type: wait, duration: 5s, when: "${steps.%s.status} == 200"}
    """
    expression = read(text % "one").playbook.steps[1].when
    assert expression is not None
    assert "did you mean 'one'" in problems(text % "onee")[0].message
    assert "has not run yet" in problems(text % "two")[0].message


def test_merge_keys_and_anchors_work_as_in_yaml(read: Read) -> None:
    steps = read("""
        name: a
        metadata:
          base: &base {type: webhook, url: "https://a.example/", timeout: 5s}
        steps:
          - {<<: *base, name: one}
          - {<<: *base, name: two, timeout: 9s}
    """).playbook.steps
    assert [step.timeout for step in steps] == [timedelta(seconds=5), timedelta(seconds=9)]
