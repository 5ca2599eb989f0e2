"""/v1/suppressions: what is, was or will be kept quiet between two moments."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Literal

from apiflask import APIBlueprint
from pydantic import Field
from sqlalchemy.orm import Session

from medic import services
from medic.db import database_now, in_transaction
from medic.errors import Invalid
from medic.services import names_regex
from medic.suppression_plan import Item, Key, Wish, planned
from medic.suppression_rules import is_within
from medic_api.fields import MAX_ID, Answer, Name, Page, Time
from medic_api.guard import caller, guard, need_service
from medic_api.guard import services as shared
from medic_api.paging import cut, read_time_cursor, time_cursor
from medic_api.windows import SelectorOut

bp = APIBlueprint("suppressions", __name__, url_prefix="/v1", tag="Windows and mutes")

LONGEST = timedelta(days=92)
USUAL = timedelta(days=7)


class SuppressionQuery(Page):
    since: Time | None = Field(None, alias="from", description="Now, if it is left out.")
    until: Time | None = Field(
        None, alias="to", description="A week after `from`, if it is left out; 92 days at the most."
    )
    service: Name | None = Field(None, description="Only what is for this service.")


class SuppressionOut(Answer):
    """One time of quiet: an occurrence of a window, a mute, or the pause of a service."""

    kind: Literal["window", "mute", "paused"]
    name: str = Field(description="The window, the number of the mute, or the service.")
    reason: str
    service: str | None
    selector: SelectorOut | None = Field(
        description="Of a window; null also when it names more than the services of a narrowed key."
    )
    since: Time = Field(alias="from")
    until: Time | None = Field(alias="to", description="null: nobody knows.")


class SuppressionPage(Answer):
    items: list[SuppressionOut]
    next: str | None


@bp.get("/suppressions")
@guard(scope="services:read", rate="management")
@bp.doc(
    summary="List what is kept quiet between two moments",
    description="Each occurrence of each window, mutes and paused services, by their start. A narrowed key sees what is "
    "for its services alone, and with `service` all that is for that one.",
)
@bp.input(SuppressionQuery, location="query")
@bp.output(SuppressionPage)
def list_suppressions(query_data: SuppressionQuery) -> Any:
    if query_data.service is not None:
        need_service(query_data.service)
    after = _read(query_data.after) if query_data.after is not None else None

    def work(session: Session) -> dict[str, Any]:
        since = query_data.since or database_now(session)
        if not 2000 <= since.year < 2100:
            raise Invalid.at("from", "must be in this century")
        until = query_data.until or since + USUAL
        if until <= since:
            raise Invalid.at("to", "is not after from")
        if until - since > LONGEST:
            raise Invalid.at("to", "is more than 92 days after from")
        patterns = caller().service_patterns
        wish = Wish(
            since=since,
            until=until,
            service=services.find(session, query_data.service)[0] if query_data.service is not None else None,
            names=names_regex(patterns) if patterns is not None else None,
            patterns=patterns,
        )
        rows = planned(session, wish, after=after, limit=query_data.limit + 1)
        return cut(rows, query_data, _cursor, lambda item: _view(item, patterns))

    return in_transaction(shared().engine, work)


def _cursor(item: Item) -> str:
    return time_cursor(item.key.since, f"{item.key.kind}-{item.key.row_id}")


def _read(text: str) -> Key:
    at, rest = read_time_cursor(text)
    kind, _, row_id = rest.partition("-")
    if kind not in {"window", "mute", "paused"} or not row_id.isdecimal() or len(row_id) > 18:
        raise Invalid.at("after", "is not a `next` of this list")
    return Key(at, kind, min(int(row_id), MAX_ID))


def _view(item: Item, patterns: tuple[str, ...] | None) -> dict[str, Any]:
    selector = item.selector
    if selector is not None and patterns is not None and not is_within(selector, patterns):
        selector = None
    return {
        "kind": item.key.kind,
        "name": item.name,
        "reason": item.reason,
        "service": item.service,
        "selector": selector,
        "from": item.key.since,
        "to": item.until,
    }
