from __future__ import annotations

from collections.abc import Callable
from textwrap import dedent

import pytest

from medic.errors import Invalid, Problem
from medic.playbook.document import Parsed
from medic.playbook.grammar import parse
from medic.steps.approval import ApprovalStep
from medic.steps.base import StepType
from medic.steps.condition import ConditionStep
from medic.steps.notify import NotifyStep
from medic.steps.script import ScriptStep
from medic.steps.wait import WaitStep
from medic.steps.webhook import WebhookStep

TYPES: dict[str, StepType] = {
    "approval": ApprovalStep(),
    "condition": ConditionStep(),
    "notify": NotifyStep(),
    "script": ScriptStep(),
    "wait": WaitStep(),
    "webhook": WebhookStep(),
}


@pytest.fixture(scope="session")
def types() -> dict[str, StepType]:
    return TYPES


@pytest.fixture
def read() -> Callable[[str], Parsed]:
    """Read an indented playbook."""
    return lambda text: parse(dedent(text).lstrip("\n"), TYPES)


@pytest.fixture
def problems() -> Callable[[str], tuple[Problem, ...]]:
    """Read an indented playbook that is wrong; returns what is."""

    def refuse(text: str) -> tuple[Problem, ...]:
        with pytest.raises(Invalid) as caught:
            parse(dedent(text).lstrip("\n"), TYPES)
        return caught.value.problems

    return refuse
