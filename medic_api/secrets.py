"""/v1/secrets: names and versions; a value goes in and never comes out."""

from __future__ import annotations

from typing import Any

from apiflask import APIBlueprint
from flask import request
from pydantic import Field, SecretStr, field_validator
from sqlalchemy.orm import Session

from medic import rewrapping, vault
from medic.db import database_now, in_transaction
from medic.errors import Invalid, Misconfigured, Unavailable
from medic_api.fields import Answer, Page, Request, Text, Time
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


class RewrapIn(Request):
    """Where a batch begins; the first one is asked for with nothing."""

    after: Text | None = Field(None, max_length=64, description="The `next` of the batch before.")
    key_id: Text | None = Field(
        None, max_length=32, description="The `key_id` of the batch before; another one here is a 409."
    )


class Rewrapped(Answer):
    """What one batch did."""

    key_id: str = Field(description="The name of the key that seals now: the first of MEDIC_SECRETS_KEY.")
    rewrapped: int = Field(description="How many data keys had another key before.")
    broken: list[str] = Field(description="What does not open and is left as it is: set it again.")
    next: str | None = Field(description="Where the next batch begins; null behind the last one.")
    in_use: list[str] | None = Field(
        description="With the last batch: the keys that are still needed. The others may be taken away."
    )


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
@bp.doc(
    summary="Set a secret",
    description="Steps use it as `${secrets.NAME}`. No call gives it back. `If-Match: *` makes no new secret.",
)
@bp.input(SecretIn, location="json")
@bp.output(SecretSet)
def put_secret(name: str, json_data: SecretIn) -> Any:
    need_wide()
    if_match = request.headers.get("If-Match")
    if if_match not in {None, "*"}:
        raise Invalid.at("If-Match", "can only be * here: the secret must exist")

    def work(session: Session) -> int:
        vault.check_key(session, ring)
        return vault.put(
            session, ring, name=name, value=json_data.value, actor=actor(), now=database_now(session),
            must_exist=if_match is not None,
        )  # fmt: skip

    try:
        ring = vault.key_ring(shared().settings)
        version = in_transaction(shared().engine, work)
    except Misconfigured as error:
        raise Unavailable(error.message, retry_after=60) from None
    return {"name": name, "version": version}


@bp.post("/secrets/rewrap")
@guard(scope="admin", rate="management")
@bp.doc(
    summary="Wrap a batch of secrets under the new key",
    description="For a change of MEDIC_SECRETS_KEY: secrets, and those of targets and hooks. Call it with `next` until"
    " that is null; a batch that is done twice changes nothing.",
)
@bp.input(RewrapIn, location="json")
@bp.output(Rewrapped)
def rewrap_secrets(json_data: RewrapIn) -> Any:
    need_wide()

    def work(session: Session) -> rewrapping.Batch:
        return rewrapping.rewrap_batch(
            session,
            ring,
            after=json_data.after,
            key_id=json_data.key_id,
            actor=actor(),
            now=database_now(session),
        )

    try:
        ring = vault.key_ring(shared().settings)
        batch = in_transaction(shared().engine, work)
    except Misconfigured as error:
        raise Unavailable(error.message, retry_after=60) from None
    return Rewrapped.model_validate(batch).model_dump()
