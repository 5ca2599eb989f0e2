"""The plan of an execution: each step as it would act, secrets masked, later results left as references."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from medic import scripts
from medic.errors import Invalid, NotFound
from medic.models.executions import Approval, Execution
from medic.playbook.document import Playbook
from medic.playbook.scope import Scope
from medic.steps import load_types


def plan_of(session: Session, document: Playbook, execution: Execution, *, start: int) -> dict[str, Any]:
    """What a human approves: the steps from ``start`` on.

    A step that needs the result of an earlier one cannot be rendered yet; the plan says so.  A script stands in it
    with its version: that one is what runs then (`approved_version`), whatever was stored since.
    """
    types = load_types()
    scope = Scope(variables=execution.variables, secret=lambda name: f"[secret:{name}]")
    steps = []
    for step in document.steps[start:]:
        try:
            shown: dict[str, Any] = dict(types[step.type].render(step.spec, scope).shown)
        except Invalid as error:
            shown = {"unresolved": error.message}
        if step.type == "script":
            shown |= _version_of(session, step.spec.name)
        steps.append({"name": step.name, "type": step.type} | shown)
    return {"playbook": execution.playbook_name, "version": execution.playbook_version, "steps": steps}


def approved_version(session: Session, execution_id: UUID, *, position: int, script: str) -> int | None:
    """The version of the script in the plan that was approved for this step; None: none was, or it was not there."""
    approval = session.execute(
        select(Approval.plan, Approval.position)
        .where(
            Approval.execution_id == execution_id, Approval.state == "approved",
            func.coalesce(Approval.position, 0) <= position,
        )
        .order_by(Approval.position.desc().nulls_last())
        .limit(1)
    ).one_or_none()  # fmt: skip
    if approval is None:
        return None
    planned = approval.plan["steps"][position - (approval.position or 0)]
    version = planned.get("version") if planned.get("script", script) == script else None
    return version if isinstance(version, int) else None


def _version_of(session: Session, name: str) -> dict[str, Any]:
    try:
        return {"version": scripts.find(session, name)[1].version}
    except NotFound:
        return {}
