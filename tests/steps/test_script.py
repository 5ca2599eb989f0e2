from __future__ import annotations

import json
import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from medic.errors import Invalid, SandboxUnavailable
from medic.playbook.scope import Scope
from medic.steps.base import Done, Failed, Outcome, Script

Act = Callable[..., Outcome]
Scripts = dict[str, Script]
SECRET = "hunter22-hunter22"


def bash(content: str, **parameters: Any) -> Script:
    return Script("bash", content, parameters, version=2, network=False)


def test_a_script_gets_its_values_as_environment_arguments_and_json(act: Act, scripts: Scripts) -> None:
    scripts["show.py"] = Script(
        "python",
        "import json, os, sys\nprint(json.dumps({'env': dict(os.environ), 'args': sys.argv[1:], 'in': json.load(sys.stdin)}))",
        {}, 2, network=False,
    )  # fmt: skip
    outcome = act(
        type="script",
        script="show.py",
        parameters={
            "HOST": "w-${SERVICE_NAME}",
            "ITEMS": "${LIST}",
            "FLAG": True,
            "SERVICE_NAME": "wins",
            "odd-name": 1,
        },
        args=["--id", "${steps.first.body.id}", 3],
    )
    assert isinstance(outcome, Done)
    seen: Any = outcome.output["json"]
    assert seen["in"] == {
        "HOST": "w-web",
        "ITEMS": [1, "x"],
        "FLAG": True,
        "SERVICE_NAME": "wins",
        "odd-name": 1,
    }
    assert seen["args"] == ["--id", "7", "3"]
    env = seen["env"]
    assert (env["HOST"], env["ITEMS"], env["FLAG"], env["SERVICE_NAME"], env["ALERT_ID"]) == (
        "w-web",
        '[1,"x"]',
        "true",
        "wins",
        "11",
    )
    assert (env["MEDIC_PLAYBOOK_ID"], env["MEDIC_SERVICE_ID"], env["MEDIC_FENCING_TOKEN"]) == ("3", "5", "4")
    assert env["MEDIC_EXECUTION_ID"] + ".s" == env["MEDIC_IDEMPOTENCY_KEY"]
    assert (outcome.output["exit_code"], outcome.output["version"]) == (0, 2)


def test_no_value_changes_the_interpreter_or_becomes_code(act: Act, scripts: Scripts) -> None:
    scripts["echo"] = bash('echo "$HOST"; echo "${LD_PRELOAD-unset} ${BASH_ENV-unset} $MEDIC_FENCING_TOKEN"')
    scope = Scope(
        variables={
            "HOST": "$(id); `id`",
            "LD_PRELOAD": "/x.so",
            "BASH_ENV": "/x",
            "MEDIC_FENCING_TOKEN": "99",
            "PATH": "/x",
        }
    )
    outcome = act(scope=scope, type="script", script_name="echo")
    assert isinstance(outcome, Done), outcome
    assert outcome.output["stdout"] == "$(id); `id`\nunset unset 4\n"


def test_a_secret_reaches_the_script_and_nothing_else(act: Act, render: Any, scripts: Scripts) -> None:
    scripts["leak"] = bash('echo "$TOKEN"; echo "{\\"t\\": \\"$TOKEN\\"}" >&2; exit 3')
    keys = {"type": "script", "script": "leak", "parameters": {"TOKEN": "${secrets.OPS}"}}
    _, rendered = render(**keys)
    outcome = act(**keys)
    assert isinstance(outcome, Failed)
    assert outcome.output["stdout"] == "[secret:OPS]\n"
    for text in (json.dumps(rendered.shown), repr(rendered), repr(outcome)):
        assert SECRET not in text


def test_an_exit_code_fails_the_step_and_may_be_retried(act: Act, scripts: Scripts) -> None:
    scripts["fail"] = bash("echo no >&2; exit 3")
    outcome = act(type="script", script="fail")
    assert isinstance(outcome, Failed)
    assert (outcome.code, outcome.message, outcome.retryable) == (
        "exit",
        "The script 'fail' ended with exit code 3.",
        True,
    )
    assert outcome.output["stderr"] == "no\n"


def test_a_script_that_takes_too_long_is_a_timeout(act: Act, scripts: Scripts) -> None:
    scripts["slow"] = bash("exec sleep 30")
    outcome = act({"timeout": timedelta(seconds=0.3)}, type="script", script="slow")
    assert isinstance(outcome, Failed)
    assert (outcome.code, outcome.message) == ("timeout", "The script 'slow' did not end within 0.3s.")


def test_a_cancelled_execution_stops_its_script(act: Act, scripts: Scripts) -> None:
    scripts["slow"] = bash("exec sleep 30")
    stop = threading.Event()
    outcome = act({"should_stop": stop.is_set, "before_effect": stop.set}, type="script", script="slow")
    assert isinstance(outcome, Failed)
    assert (outcome.code, outcome.retryable) == ("stopped", False)


def test_a_lease_that_is_not_surely_ours_starts_nothing(act: Act, scripts: Scripts, tmp_path: Any) -> None:
    scripts["touch"] = bash("echo x > ran")

    class LeaseLost(Exception):
        pass

    def lost() -> None:
        raise LeaseLost

    with pytest.raises(LeaseLost):
        act({"before_effect": lost}, type="script", script="touch")
    assert list(tmp_path.rglob("ran")) == []


def test_an_unknown_script_fails_plainly(act: Act) -> None:
    outcome = act(type="script", script="gone")
    assert outcome == Failed("script_missing", "No script called 'gone' is registered.")


def test_a_machine_without_a_sandbox_fails_plainly(act: Act, scripts: Scripts) -> None:
    scripts["any"] = bash("true")

    def refuse(**_: object) -> None:
        raise SandboxUnavailable("this kernel has no Landlock")

    outcome = act({"run_script": refuse}, type="script", script="any")
    assert outcome == Failed("sandbox_unavailable", "this kernel has no Landlock")


def test_parameters_are_held_to_what_the_script_says(act: Act, scripts: Scripts) -> None:
    scripts["strict"] = bash(
        'echo "$MODE $COUNT"',
        MODE={"choices": ["soft", "hard"], "required": True},
        COUNT={"type": "whole", "default": 2},
    )
    good = act(type="script", script="strict", parameters={"MODE": "soft"})
    assert isinstance(good, Done)
    assert good.output["stdout"] == "soft 2\n"
    for parameters, says in (
        ({}, "MODE is required"), ({"MODE": "kill"}, "MODE is none of"), ({"MODE": "soft", "COUNT": "x"}, "COUNT must be a whole number"),
        ({"MODE": "soft", "X": 1}, "X is unknown"),
    ):  # fmt: skip
        outcome = act(type="script", script="strict", parameters=parameters)
        assert isinstance(outcome, Failed)
        assert outcome.code == "invalid_parameters"
        assert says in outcome.message


def test_output_that_only_looks_like_json_stays_text(act: Act, scripts: Scripts) -> None:
    scripts["odd"] = bash("echo '{not json'")
    outcome = act(type="script", script="odd")
    assert isinstance(outcome, Done)
    assert "json" not in outcome.output


@pytest.mark.parametrize(
    ("keys", "path"),
    [
        ({}, ""), ({"script": "a", "script_name": "b"}, ".script_name"), ({"script": "a", "args": ["${secrets.OPS}"]}, ".args"),
        ({"script": "a", "args": "x"}, ".args"), ({"script": "a", "args": [[1]]}, ".args"), ({"script": "a", "parameters": [1]}, ".parameters"),
        ({"script": "a", "parameters": {"${SERVICE_NAME}": 1}}, ".parameters.${SERVICE_NAME}"),
    ],
)  # fmt: skip
def test_a_script_step_that_cannot_work_is_refused_when_it_is_read(render: Any, keys: Any, path: str) -> None:
    with pytest.raises(Invalid) as caught:
        render(type="script", **keys)
    assert [problem.path for problem in caught.value.problems] == [f"steps[1]{path}"]


def test_a_value_that_no_environment_holds_fails_before_the_start(
    act: Act, render: Any, scripts: Scripts
) -> None:
    scripts["any"] = bash("true")
    for value in ("a\0b", "x" * 200_000):
        scope = Scope(variables={"BAD": value})
        outcome = act(scope=scope, type="script", script="any")
        assert isinstance(outcome, Failed)
        assert outcome.code == "invalid_parameters"
        with pytest.raises(Invalid):
            render(scope=scope, type="script", script="any", args=["${BAD}"])
