"""/v1/approvals: questions to humans, each decided once."""

from __future__ import annotations

from typing import Any, Literal

from apiflask import APIBlueprint
from pydantic import Field
from sqlalchemy.orm import Session

from medic.db import database_now, in_transaction
from medic.executions import approvals, views
from medic_api.execution_views import ApprovalOut, approval_view
from medic_api.fields import Answer, Page, Request, Text
from medic_api.guard import actor, caller, guard, need_service
from medic_api.guard import services as shared
from medic_api.once import IDEMPOTENT, once
from medic_api.paging import cut, id_cursor

bp = APIBlueprint("approvals", __name__, url_prefix="/v1", tag="Approvals")


class ApprovalPage(Answer):
    items: list[ApprovalOut]
    next: str | None


class ApprovalQuery(Page):
    state: Literal["pending", "approved", "rejected", "void"] | None = None


class DecisionIn(Request):
    """A decision; the body may be empty."""

    plan_digest: Text | None = Field(None, max_length=64, description="Of the plan that you saw.")
    comment: Text | None = Field(None, max_length=10_000)


@bp.get("/approvals")
@guard(scope="playbooks:read", rate="management")
@bp.doc(summary="List approvals, newest first")
@bp.input(ApprovalQuery, location="query")
@bp.output(ApprovalPage)
def list_approvals(query_data: ApprovalQuery) -> Any:
    def work(session: Session) -> dict[str, Any]:
        rows = views.approvals_page(
            session, after=id_cursor(query_data), limit=query_data.limit + 1, state=query_data.state,
            patterns=caller().service_patterns,
        )  # fmt: skip
        return cut(rows, query_data, lambda row: str(row[0].id), lambda row: approval_view(*row))

    return in_transaction(shared().engine, work)


@bp.get("/approvals/<id:approval_id>")
@guard(scope="playbooks:read", rate="management")
@bp.doc(
    summary="Show an approval",
    description="With the plan that it is about: each step as it would act, with its values in and secrets masked.",
)
@bp.output(ApprovalOut)
def show_approval(approval_id: int) -> Any:
    def work(session: Session) -> dict[str, Any]:
        approval, execution = views.approval(session, approval_id)
        need_service(execution.service_name)
        return approval_view(approval, execution)

    return in_transaction(shared().engine, work)


@bp.post("/approvals/<id:approval_id>/approve")
@guard(scope="approvals:decide", rate="management")
@bp.doc(
    summary="Approve",
    description="Whoever started the execution cannot approve it.",
    extensions={"x-headers": IDEMPOTENT},
)
@bp.input(DecisionIn, location="json")
@bp.output(ApprovalOut)
def approve(approval_id: int, json_data: DecisionIn) -> Any:
    return _decide(approval_id, "approved", json_data)


@bp.post("/approvals/<id:approval_id>/reject")
@guard(scope="approvals:decide", rate="management")
@bp.doc(summary="Reject", extensions={"x-headers": IDEMPOTENT})
@bp.input(DecisionIn, location="json")
@bp.output(ApprovalOut)
def reject(approval_id: int, json_data: DecisionIn) -> Any:
    return _decide(approval_id, "rejected", json_data)


def _decide(approval_id: int, verdict: str, wish: DecisionIn) -> Any:
    """Decide; the row is due then, and the due sweep goes on with it."""

    def work(session: Session) -> dict[str, Any]:
        _, execution = views.approval(session, approval_id)
        need_service(execution.service_name)
        session.expunge_all()  # the use case reads them again, under its locks
        approvals.decide(
            session, approval_id=approval_id, verdict=verdict, actor=actor(), now=database_now(session),
            plan_digest=wish.plan_digest, comment=wish.comment,
        )  # fmt: skip
        session.flush()
        decided = approval_view(*views.approval(session, approval_id))
        return ApprovalOut.model_validate(decided).model_dump(mode="json")

    reply = once(work, status=200)
    return reply.body, reply.status, reply.headers
