"""/v1/executions: start, see, cancel and settle them."""

from __future__ import annotations

from typing import Any, Literal
from uuid import UUID

from apiflask import APIBlueprint
from flask import request
from pydantic import Field
from sqlalchemy.orm import Session

from medic import playbooks, services
from medic.db import database_now, in_transaction
from medic.egress import allow_list, validate_url
from medic.errors import Conflict, Invalid, MedicError, NotFound
from medic.executions import control, rehearsal, views
from medic.executions.admission import Refused, Subject, start
from medic.executions.pinned import pinned
from medic.models.executions import Execution
from medic.telemetry.traces import current_traceparent
from medic_api.alerts import Nothing
from medic_api.execution_views import ExecutionDetail, ExecutionOut, ExecutionPage, detail, summary
from medic_api.fields import MAX_ID, Answer, JsonValue, Name, Page, Request, Text
from medic_api.guard import actor, caller, guard, need_service
from medic_api.guard import services as shared
from medic_api.once import IDEMPOTENT, once
from medic_api.paging import cut, uuid_cursor

bp = APIBlueprint("executions", __name__, url_prefix="/v1", tag="Executions")

State = Literal["pending_approval", "running", "waiting", "in_doubt", "completed", "failed", "cancelled"]


class StartIn(Request):
    """What the playbook runs on; the body may be empty."""

    service: Name | None = Field(None, description="The service that it is for.")
    variables: dict[Text, JsonValue] = Field(default_factory=dict, max_length=200)


class SettleIn(Request):
    """What became of the step in doubt."""

    verdict: Literal["happened", "retry", "fail"] = Field(
        description="`happened`: go on behind it. `retry`: do it again. `fail`: the execution failed."
    )


class RehearsedStep(Answer):
    """A step as it would act."""

    name: str
    type: str
    skipped: bool = Field(description="Its `when` does not hold.")
    shown: JsonValue = Field(
        description="With its values in and secrets masked; null where that does not go."
    )
    needs: list[str] = Field(
        description="Earlier steps whose results it waits for: those stand in it by name."
    )
    problems: list[str] = Field(description="What would stop it.")


class DryRunOut(Answer):
    """What a start would do; nothing was started or sent."""

    playbook: str
    playbook_version: int
    service: str | None
    fine: bool = Field(description="No step has a problem.")
    now: Literal["running", "waiting", "pending_approval", "refused"] = Field(
        description="What a start would be answered at this moment."
    )
    why: str | None
    lock: str | None
    variables: JsonValue
    steps: list[RehearsedStep]


class ExecutionQuery(Page):
    state: State | None = None
    playbook: Name | None = None
    service: Name | None = None
    alert: int | None = Field(None, ge=1, le=MAX_ID)


@bp.post("/playbooks/<name:name>/executions")
@guard(scope="executions:run", rate="trigger")
@bp.doc(
    summary="Start a playbook",
    description="Answers 202 once the execution is committed; it then runs.",
    extensions={"x-headers": IDEMPOTENT},
)
@bp.input(StartIn, location="json")
@bp.output(ExecutionOut, status_code=202)
def start_execution(name: str, json_data: StartIn) -> Any:
    need_service(json_data.service)

    def work(session: Session) -> dict[str, Any] | MedicError:
        outcome = start(session, _subject(session, name, json_data), now=database_now(session))
        if isinstance(outcome, Refused):
            return Conflict(outcome.reason)
        execution = views.find(session, outcome)
        session.refresh(execution)
        steps = views.steps_of(session, [outcome])[outcome]
        return ExecutionOut.model_validate(summary(execution, steps)).model_dump(mode="json")

    reply = once(work, status=202)
    if not reply.repeated and reply.body["state"] == "running":
        shared().hints.give(UUID(reply.body["id"]), epoch=reply.body["epoch"])
    headers = reply.headers | {"Location": f"/v1/executions/{reply.body['id']}"}
    return reply.body, reply.status, headers


@bp.post("/playbooks/<name:name>/dry-run")
@guard(scope="executions:run", rate="trigger")
@bp.doc(
    summary="Try a playbook without doing anything",
    description="Each step as it would act, and what would stop it: values that are missing, secrets, scripts and targets "
    "that are not there, addresses that may not be reached. Names are looked up; nothing is sent, run or stored.",
)
@bp.input(StartIn, location="json")
@bp.output(DryRunOut)
def dry_run(name: str, json_data: StartIn) -> Any:
    need_service(json_data.service)

    def work(session: Session) -> tuple[Subject, rehearsal.DryRun]:
        subject = _subject(session, name, json_data)
        return subject, rehearsal.rehearse(session, subject, now=database_now(session))

    subject, tried = in_transaction(shared().engine, work)
    allow = allow_list(shared().settings)
    rehearsal.judge_urls(
        tried, lambda url, within: validate_url(url, within <= 0, allow=allow, timeout=max(within, 1.0))
    )
    return {
        "playbook": name,
        "playbook_version": subject.playbook_version,
        "service": subject.service_name,
        "fine": rehearsal.is_fine(tried),
        "now": tried.now,
        "why": tried.why,
        "lock": tried.lock,
        "variables": tried.variables,
        "steps": [
            {"name": one.step.name, "type": one.step.type, "skipped": one.skipped, "shown": one.shown,
             "needs": one.needs, "problems": one.problems}
            for one in tried.steps
        ],
    }  # fmt: skip


@bp.get("/executions")
@guard(scope="playbooks:read", rate="management")
@bp.doc(summary="List executions, newest first")
@bp.input(ExecutionQuery, location="query")
@bp.output(ExecutionPage)
def list_executions(query_data: ExecutionQuery) -> Any:
    def work(session: Session) -> dict[str, Any]:
        rows = views.page(
            session, after=uuid_cursor(query_data), limit=query_data.limit + 1, state=query_data.state,
            playbook=query_data.playbook, service=query_data.service, alert_id=query_data.alert,
            patterns=caller().service_patterns,
        )  # fmt: skip
        steps = views.steps_of(session, [row.id for row in rows])
        return cut(rows, query_data, lambda row: str(row.id), lambda row: summary(row, steps[row.id]))

    return in_transaction(shared().engine, work)


@bp.get("/executions/<uuid:execution_id>")
@guard(scope="playbooks:read", rate="management")
@bp.doc(summary="Show an execution with each attempt at its steps")
@bp.output(ExecutionDetail)
def show_execution(execution_id: UUID) -> Any:
    return in_transaction(shared().engine, lambda session: detail(session, mine(session, execution_id)))


@bp.post("/executions/<uuid:execution_id>/cancel")
@guard(scope="executions:run", rate="management")
@bp.doc(
    summary="Cancel an execution",
    description="At once when nothing runs, else when the running step ends; a running script is killed.",
    extensions={"x-headers": IDEMPOTENT},
)
@bp.input(Nothing, location="json")
@bp.output(ExecutionDetail)
def cancel_execution(execution_id: UUID, json_data: Nothing) -> Any:  # noqa: ARG001 - only that it is empty
    def work(session: Session) -> dict[str, Any]:
        mine(session, execution_id)
        control.cancel(session, execution_id=execution_id, actor=actor(), now=database_now(session))
        return _after(session, execution_id)

    reply = once(work, status=200)
    return reply.body, reply.status, reply.headers


@bp.post("/executions/<uuid:execution_id>/settle")
@guard(scope="executions:run", rate="management")
@bp.doc(summary="Say what became of a step in doubt", extensions={"x-headers": IDEMPOTENT})
@bp.input(SettleIn, location="json")
@bp.output(ExecutionDetail)
def settle_execution(execution_id: UUID, json_data: SettleIn) -> Any:
    def work(session: Session) -> dict[str, Any]:
        mine(session, execution_id)
        control.settle(
            session, execution_id=execution_id, verdict=json_data.verdict, actor=actor(),
            now=database_now(session),
        )  # fmt: skip
        return _after(session, execution_id)

    reply = once(work, status=200)
    return reply.body, reply.status, reply.headers


def mine(session: Session, execution_id: UUID) -> Execution:
    """The execution, if this key may see it.

    :raises NotFound: no such execution.
    :raises Forbidden: it is for a service that the key is not for.
    """
    execution = views.find(session, execution_id)
    need_service(execution.service_name)
    return execution


def _after(session: Session, execution_id: UUID) -> dict[str, Any]:
    session.flush()
    session.expire_all()
    shown = detail(session, views.find(session, execution_id))
    return ExecutionDetail.model_validate(shown).model_dump(mode="json")


def _subject(session: Session, name: str, wish: StartIn) -> Subject:
    stored = playbooks.find(session, name)
    if not stored.playbook.enabled:
        raise Conflict(f"The playbook {name} is switched off.")
    service_id = None
    if wish.service is not None:
        try:
            service_id = services.find(session, wish.service)[0].id
        except NotFound as error:
            raise Invalid.at("service", error.message) from None
    return Subject(
        playbook_id=stored.playbook.id,
        playbook_version=stored.version.version,
        document=pinned(stored.version.source),
        started_by=actor(),
        service_id=service_id,
        service_name=wish.service,
        variables=wish.variables,
        context={"trigger": "api"} | ({"source_ip": request.remote_addr} if request.remote_addr else {}),
        traceparent=current_traceparent(),
    )
