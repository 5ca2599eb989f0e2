"""The plan of an execution: each step as it would act, secrets masked, later results left as references."""

from __future__ import annotations

from typing import Any

from medic.errors import Invalid
from medic.models.executions import Execution
from medic.playbook.document import Playbook
from medic.playbook.scope import Scope
from medic.steps import load_types


def plan_of(document: Playbook, execution: Execution, *, start: int) -> dict[str, Any]:
    """What a human approves: the steps from ``start`` on.

    A step that needs the result of an earlier one cannot be rendered yet; the plan says so.
    """
    types = load_types()
    scope = Scope(variables=execution.variables, secret=lambda name: f"[secret:{name}]")
    steps = []
    for step in document.steps[start:]:
        try:
            shown: dict[str, Any] = dict(types[step.type].render(step.spec, scope).shown)
        except Invalid as error:
            shown = {"unresolved": error.message}
        steps.append({"name": step.name, "type": step.type} | shown)
    return {"playbook": execution.playbook_name, "version": execution.playbook_version, "steps": steps}
