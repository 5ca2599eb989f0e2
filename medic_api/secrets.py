"""/v1/secrets: names and versions; a value goes in and never comes out."""

from __future__ import annotations

from typing import Any

from apiflask import APIBlueprint
from pydantic import Field, SecretStr, field_validator
from sqlalchemy.orm import Session

from medic import vault
from medic.db import database_now, in_transaction
from medic.errors import Misconfigured, Unavailable
from medic_api.fields import Answer, Page, Request, Time
from medic_api.guard import actor, guard, need_wide
from medic_api.guard import services as shared
from medic_api.paging import cut

bp = APIBlueprint("secrets", __name__, url_prefix="/v1", tag="Secrets")


class SecretIn(Request):
    value: SecretStr = Field(min_length=1, max_length=65_536)

    @field_validator("value")
    @classmethod
    def _no_nul(cls, value: SecretStr) -> SecretStr:
        if "\x00" in value.get_secret_value():
            raise ValueError("must not hold a NUL character")
        return value


class SecretOut(Answer):
    """A secret without its value."""

    name: str
    version: int
    created_at: Time
    updated_at: Time


class SecretPage(Answer):
    items: list[SecretOut]
    next: str | None


class SecretSet(Answer):
    name: str
    version: int


@bp.get("/secrets")
@guard(scope="admin", rate="management")
@bp.doc(summary="List secrets by name, without their values")
@bp.input(Page, location="query")
@bp.output(SecretPage)
def list_secrets(query_data: Page) -> Any:
    need_wide()

    def work(session: Session) -> dict[str, Any]:
        rows = vault.page(session, after=query_data.after, limit=query_data.limit + 1)
        return cut(rows, query_data, lambda secret: secret.name, SecretOut.model_validate)

    return in_transaction(shared().engine, work)


@bp.put("/secrets/<secret:name>")
@guard(scope="admin", rate="management")
@bp.doc(summary="Set a secret", description="Steps use it as `${secrets.NAME}`. No call gives it back.")
@bp.input(SecretIn, location="json")
@bp.output(SecretSet)
def put_secret(name: str, json_data: SecretIn) -> Any:
    need_wide()

    def work(session: Session) -> int:
        vault.check_key(session, ring)
        return vault.put(
            session, ring, name=name, value=json_data.value, actor=actor(), now=database_now(session)
        )

    try:
        ring = vault.key_ring(shared().settings)
        version = in_transaction(shared().engine, work)
    except Misconfigured as error:
        raise Unavailable(error.message, retry_after=60) from None
    return {"name": name, "version": version}
