"""The step that tells people: whom, what, and never a secret."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from medic.errors import Invalid
from medic.playbook.scope import Scope
from medic.steps.base import ActContext, Done, Failed, Notice, Outcome, Recipient
from tests.steps.conftest import SCOPE, SECRET, Ledger

Act = Callable[..., Outcome]


@pytest.fixture
def context(context: ActContext) -> ActContext:
    return replace(context, facts=Ledger(targets={"ops": 7, "night": 8, "default": 9}))


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"target": "ops"}, Recipient(7, "ops")),
        ({"route": "night"}, Recipient(8, "night")),
        ({}, Recipient(9, "default")),
    ],
)
def test_it_tells_whom_the_playbook_names(act: Act, keys: dict[str, str], told: Recipient) -> None:
    outcome = act(type="notify", message="${SERVICE_NAME}: ${steps.first.status}", **keys)
    expected = {"message": "web: 200", "targets": [told.target]}
    assert outcome == Done(expected, Notice("web: 200", (told,)))


def test_a_name_that_is_nobodys_fails_the_step(act: Act) -> None:
    outcome = act(type="notify", message="Hello", target="gone")
    assert outcome == Failed("nobody_to_tell", "There is no target 'gone'.")


def test_what_looks_like_a_secret_is_taken_out(act: Act) -> None:
    scope = replace(SCOPE, steps={"first": {"body": f"token={SECRET}"}})
    outcome = act(type="notify", message="${steps.first.body}", scope=scope)
    assert isinstance(outcome, Done)
    assert outcome.notice is not None
    assert outcome.notice.text == "token=[secret:OPS]"


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"message": "${secrets.OPS}"}, "secret"),
        ({"message": ""}, "must not be empty"),
        ({}, "required"),
        ({"message": "a", "target": "ops", "route": "night"}, "not both"),
        ({"message": "a", "target": "${secrets.OPS}"}, "secret"),
        ({"message": "a", "tarjet": "ops"}, "target"),
        ({"message": "a", "timeout": "5s"}, "timeout"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    render: Callable[..., object], keys: dict[str, str], said: str
) -> None:
    with pytest.raises(Invalid) as refused:
        render(type="notify", **keys)
    assert said in " ".join(problem.message for problem in refused.value.problems)


def test_values_that_leave_nothing_to_say_fail_before_anybody_is_told(render: Callable[..., object]) -> None:
    empty = Scope(variables={"X": " "})
    for keys in ({"message": "${X}"}, {"message": "a", "target": "${X}"}):
        with pytest.raises(Invalid):
            render(scope=empty, type="notify", **keys)


def test_a_long_message_is_cut(act: Act) -> None:
    outcome = act(type="notify", message="${X}", scope=Scope(variables={"X": "x" * 5000}))
    assert isinstance(outcome, Done)
    assert outcome.notice is not None
    assert len(outcome.notice.text) == 2000
