"""How executions look."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from pydantic import Field
from sqlalchemy.orm import Session

from medic.executions import views
from medic.models.executions import Approval, Execution, ExecutionStep
from medic_api.fields import Answer, JsonValue, Time


class StepOut(Answer):
    """A step, and where it stands."""

    position: int
    name: str
    type: str
    state: str
    tries: int = Field(description="Failures that were recorded.")
    losses: int = Field(description="How often its worker was lost.")
    started_at: Time | None
    ended_at: Time | None
    error: JsonValue


class AttemptOut(Answer):
    """One try at a step."""

    epoch: int
    worker: str
    task_id: str
    started_at: Time
    ended_at: Time | None
    outcome: str | None
    output: JsonValue
    error: JsonValue


class StepDetail(StepOut):
    output: JsonValue
    attempts: list[AttemptOut]


class LockOut(Answer):
    """A lock: no two executions hold it at once."""

    name: str
    held_by: UUID | None = Field(description="The execution that has it; it keeps it until it ends.")
    since: Time | None


class ApprovalOut(Answer):
    """A question to a human: may these steps act?"""

    id: int
    execution_id: UUID
    playbook: str
    service: str | None
    step: int | None = Field(description="Position of the approval step; none: before the first step.")
    state: str
    message: str
    plan: JsonValue
    plan_digest: str = Field(description="Send it with your decision, to decide on what you saw.")
    requested_at: Time
    expires_at: Time | None
    on_timeout: str | None
    decided_at: Time | None
    decided_by: str | None
    comment: str | None


class _Execution(Answer):
    """One running of a playbook version."""

    id: UUID
    playbook: str
    playbook_version: int
    service: str | None
    alert: int | None
    started_by: str
    mode: str = Field(description="live, or shadow: it is a record of what a trigger would have started.")
    state: str
    waiting_for: str | None
    next_step: int
    epoch: int
    due_at: Time | None = Field(description="When Medic looks at it next.")
    deadline_at: Time | None
    cancel_requested_at: Time | None
    created_at: Time
    started_at: Time | None
    finished_at: Time | None
    error: JsonValue


class ExecutionOut(_Execution):
    steps: list[StepOut]


class ExecutionDetail(_Execution):
    variables: JsonValue
    cancel_requested_by: str | None
    traceparent: str | None
    lock: LockOut | None = Field(
        description="What it holds, also in doubt and while it waits for an approval, or waits for."
    )
    steps: list[StepDetail]
    approval: ApprovalOut | None = Field(description="The question that it waits for.")


class ExecutionPage(Answer):
    items: list[ExecutionOut]
    next: str | None


def summary(execution: Execution, steps: Sequence[ExecutionStep]) -> dict[str, Any]:
    """An execution with its steps in short."""
    return _columns(execution) | {"steps": [StepOut.model_validate(step) for step in steps]}


def detail(session: Session, execution: Execution) -> dict[str, Any]:
    """An execution with all that is known of it."""
    attempts = views.attempts_of(session, execution.id)
    steps = [
        {name: getattr(step, name) for name in (*StepOut.model_fields, "output")}
        | {"attempts": [AttemptOut.model_validate(row) for row in attempts.get(step.position, [])]}
        for step in views.steps_of(session, [execution.id])[execution.id]
    ]
    question = views.open_question(session, execution.id)
    return _columns(execution) | {
        "lock": views.lock_of(session, execution),
        "steps": steps,
        "approval": approval_view(question, execution) if question else None,
    }


def approval_view(approval: Approval, execution: Execution) -> dict[str, Any]:
    """An approval as `ApprovalOut`."""
    return {column.key: getattr(approval, column.key) for column in Approval.__table__.columns} | {
        "playbook": execution.playbook_name,
        "service": execution.service_name,
        "step": approval.position,
    }


def _columns(execution: Execution) -> dict[str, Any]:
    return {column.key: getattr(execution, column.key) for column in Execution.__table__.columns} | {
        "playbook": execution.playbook_name,
        "service": execution.service_name,
        "alert": execution.alert_id,
    }
