"""/v1/keys: who may call."""

from __future__ import annotations

from typing import Any

from apiflask import APIBlueprint
from flask import Response
from pydantic import Field
from sqlalchemy.orm import Session

from medic import access
from medic.access import SCOPES
from medic.db import database_now, in_transaction
from medic.models.access import ApiKey
from medic_api.fields import Answer, Page, Pattern, Request, Text, Time
from medic_api.guard import actor, guard, need_wide
from medic_api.guard import services as shared
from medic_api.paging import cut

bp = APIBlueprint("keys", __name__, url_prefix="/v1", tag="API keys")


class KeyIn(Request):
    """A key to make."""

    name: Text = Field(min_length=1, max_length=128)
    scopes: list[Text] = Field(
        min_length=1,
        max_length=len(SCOPES),
        description="; ".join(f"`{scope}`: {meaning}" for scope, meaning in SCOPES.items()),
    )
    service_patterns: list[Pattern] | None = Field(
        None, min_length=1, max_length=100, description="Narrows the key to services of these names."
    )
    expires_at: Time | None = None


class KeyOut(Answer):
    """A key without its text."""

    id: str
    name: str
    scopes: list[str]
    service_patterns: list[str] | None
    created_by: str
    created_at: Time
    expires_at: Time | None
    revoked_at: Time | None


class NewKey(KeyOut):
    key: str = Field(description="Shown this once.")


class KeyPage(Answer):
    items: list[KeyOut]
    next: str | None


@bp.post("/keys")
@guard(scope="admin", rate="management")
@bp.doc(summary="Make an API key", description="Its text is in this answer and nowhere else.")
@bp.input(KeyIn, location="json")
@bp.output(NewKey, status_code=201)
def create_key(json_data: KeyIn) -> Any:
    need_wide()

    def work(session: Session) -> dict[str, Any]:
        key_id, text = access.create_key(
            session, name=json_data.name, scopes=list(json_data.scopes),
            pepper=shared().settings.need_pepper(), actor=actor(), now=database_now(session),
            service_patterns=json_data.service_patterns, expires_at=json_data.expires_at,
        )  # fmt: skip
        shown = KeyOut.model_validate(session.get_one(ApiKey, key_id)).model_dump()
        return shown | {"key": text.get_secret_value()}

    return in_transaction(shared().engine, work)


@bp.get("/keys")
@guard(scope="admin", rate="management")
@bp.doc(summary="List API keys, the revoked ones too")
@bp.input(Page, location="query")
@bp.output(KeyPage)
def list_keys(query_data: Page) -> Any:
    need_wide()

    def work(session: Session) -> dict[str, Any]:
        rows = access.page(session, after=query_data.after, limit=query_data.limit + 1)
        return cut(rows, query_data, lambda key: key.id, KeyOut.model_validate)

    return in_transaction(shared().engine, work)


@bp.delete("/keys/<key:key_id>")
@guard(scope="admin", rate="management")
@bp.doc(
    summary="Revoke an API key", description="It ends everywhere within 5 s. A second time changes nothing."
)
@bp.output({}, status_code=204)
def revoke_key(key_id: str) -> Any:
    need_wide()
    in_transaction(
        shared().engine,
        lambda session: access.revoke(session, key_id=key_id, actor=actor(), now=database_now(session)),
    )
    shared().keyring.forget(key_id)
    return Response(status=204)
