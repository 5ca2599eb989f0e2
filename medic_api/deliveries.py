"""/v1/deliveries: who was told what, and what became of it."""

from __future__ import annotations

from typing import Any, Literal
from uuid import UUID

from apiflask import APIBlueprint
from pydantic import Field
from sqlalchemy.orm import Session

from medic.db import in_transaction
from medic.deliveries import views
from medic_api.fields import MAX_ID, Answer, JsonValue, Name, Page, Time
from medic_api.guard import caller, guard
from medic_api.guard import services as shared
from medic_api.paging import cut, id_cursor

bp = APIBlueprint("deliveries", __name__, url_prefix="/v1", tag="Alerts")

Kind = Literal[
    "opened", "reason_joined", "renotified", "acknowledged", "escalated", "resolved", "notice", "test"
]
State = Literal["pending", "delivered", "failed", "suppressed"]


class DeliveryOut(Answer):
    """One notification to one target."""

    id: int
    uuid: UUID = Field(description="Constant over retries; a webhook gets it as `webhook-id`.")
    kind: Kind
    alert: int | None
    service: str | None
    target: str | None = Field(description="null: the target was deleted.")
    route: str | None
    level: int = Field(description="The route's level of escalation.")
    state: State = Field(description="`suppressed`: there was no need to send it; `error` says why.")
    tries: int = Field(description="Failures that were recorded.")
    error: str | None = Field(description="Why it failed the last time, or was not sent.")
    receipt: JsonValue = Field(
        description="What the target answered, as the place of a message in Slack; null before it did."
    )
    carried_by: int | None = Field(description="The delivery whose message told this along.")
    created_at: Time
    due_at: Time | None = Field(description="When it is looked at again, while it is pending.")
    finished_at: Time | None


class DeliveryPage(Answer):
    items: list[DeliveryOut]
    next: str | None


class DeliveryQuery(Page):
    alert: int | None = Field(None, ge=1, le=MAX_ID)
    target: Name | None = None
    state: State | None = None


@bp.get("/deliveries")
@guard(scope="services:read", rate="management")
@bp.doc(summary="List deliveries, newest first")
@bp.input(DeliveryQuery, location="query")
@bp.output(DeliveryPage)
def list_deliveries(query_data: DeliveryQuery) -> Any:
    def work(session: Session) -> dict[str, Any]:
        rows = views.page(
            session, after=id_cursor(query_data), limit=query_data.limit + 1, alert_id=query_data.alert,
            target=query_data.target, state=query_data.state, patterns=caller().service_patterns,
        )  # fmt: skip
        return cut(rows, query_data, lambda row: str(row.delivery.id), delivery_view)

    return in_transaction(shared().engine, work)


@bp.get("/deliveries/<id:delivery_id>")
@guard(scope="services:read", rate="management")
@bp.doc(summary="Show a delivery")
@bp.output(DeliveryOut)
def show_delivery(delivery_id: int) -> Any:
    patterns = caller().service_patterns
    return in_transaction(
        shared().engine,
        lambda session: delivery_view(views.find(session, delivery_id, patterns=patterns)),
    )


def delivery_view(shown: views.Shown) -> dict[str, Any]:
    """A delivery as `DeliveryOut`."""
    delivery = shown.delivery
    return {
        "id": delivery.id,
        "uuid": delivery.uuid,
        "kind": delivery.kind,
        "alert": delivery.alert_id,
        "service": shown.service,
        "target": shown.target,
        "route": shown.route,
        "level": delivery.level,
        "state": delivery.state,
        "tries": delivery.tries,
        "error": delivery.error,
        "receipt": views.receipt(delivery),
        "carried_by": delivery.carried_by,
        "created_at": delivery.created_at,
        "due_at": delivery.due_at,
        "finished_at": delivery.finished_at,
    }
