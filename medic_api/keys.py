"""/v1/keys: who may call."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from apiflask import APIBlueprint
from flask import Response
from pydantic import Field, SecretStr, ValidationInfo, field_validator
from sqlalchemy.orm import Session

from medic import access
from medic.access import MAX_OVERLAP, SCOPES
from medic.db import database_now, in_transaction
from medic.models.access import ApiKey
from medic_api.fields import Answer, Duration, Page, Pattern, Request, Text, Time
from medic_api.guard import actor, guard, need_wide
from medic_api.guard import services as shared
from medic_api.once import IDEMPOTENT, NOTE, Reply, once
from medic_api.paging import cut

bp = APIBlueprint("keys", __name__, url_prefix="/v1", tag="API keys")


class Ending(Request):
    """When a key ends, said in one of two ways."""

    expires_at: Time | None = None
    expires_in: Duration | None = Field(
        None, gt=timedelta(0), description="A duration, as `90d`, in place of `expires_at`."
    )

    @field_validator("expires_in")
    @classmethod
    def _one_end(cls, value: timedelta | None, info: ValidationInfo) -> timedelta | None:
        if value is not None and info.data.get("expires_at") is not None:
            raise ValueError("and expires_at: give one of them")
        return value

    def ends_at(self, now: datetime) -> datetime | None:
        return now + self.expires_in if self.expires_in is not None else self.expires_at


class KeyIn(Ending):
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


class RotationIn(Ending):
    """How a key is replaced; without an end, the new key lasts as long as the old one was made for."""

    overlap: Duration = Field(
        timedelta(hours=24),
        le=MAX_OVERLAP,
        description="How long both keys work; 0 ends the old one at once.",
    )


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
    last_used_at: Time | None = Field(
        description="Up to a minute older than the last use, or a few seconds more; written behind requests."
    )
    replaces: str | None = Field(description="The id of the key that was rotated into this one.")


class NewKey(KeyOut):
    key: str | None = Field(description="Shown this once.")
    note: str | None = Field(None, description=NOTE)


class Rotation(NewKey):
    """The new key, and until when the old one works."""

    replaces: str
    replaced_expires_at: Time = Field(description="When the old key ends.")


class KeyPage(Answer):
    items: list[KeyOut]
    next: str | None


@bp.post("/keys")
@guard(scope="admin", rate="management")
@bp.doc(
    summary="Make an API key",
    description="Its text is in this answer and nowhere else.",
    extensions={"x-headers": IDEMPOTENT},
)
@bp.input(KeyIn, location="json")
@bp.output(NewKey, status_code=201)
def create_key(json_data: KeyIn) -> Any:
    need_wide()
    made: list[SecretStr] = []

    def work(session: Session) -> dict[str, Any]:
        now = database_now(session)
        key_id, text = access.create_key(
            session, name=json_data.name, scopes=list(json_data.scopes),
            pepper=shared().settings.need_pepper(), actor=actor(), now=now,
            service_patterns=json_data.service_patterns, expires_at=json_data.ends_at(now),
        )  # fmt: skip
        made[:] = [text]
        return NewKey.model_validate(_shown(session, key_id) | {"key": None}).model_dump(mode="json")

    return _told_once(once(work, status=201), made)


@bp.post("/keys/<key:key_id>/rotate")
@guard(scope="admin", rate="management")
@bp.doc(
    summary="Replace an API key",
    description="The new key has the same name, scopes and services; its text is in this answer and nowhere else. "
    "The old key ends after the overlap, never later than it would have; each key is rotated once.",
    extensions={"x-headers": IDEMPOTENT},
)
@bp.input(RotationIn, location="json")
@bp.output(Rotation, status_code=201)
def rotate_key(key_id: str, json_data: RotationIn) -> Any:
    need_wide()
    made: list[SecretStr] = []

    def work(session: Session) -> dict[str, Any]:
        now = database_now(session)
        rotated = access.rotate(
            session, key_id=key_id, overlap=json_data.overlap, pepper=shared().settings.need_pepper(),
            actor=actor(), now=now, expires_at=json_data.ends_at(now),
        )  # fmt: skip
        made[:] = [rotated.text]
        shown = _shown(session, rotated.key_id) | {"key": None, "replaced_expires_at": rotated.old_ends_at}
        return Rotation.model_validate(shown).model_dump(mode="json")

    reply = once(work, status=201)
    shared().keyring.forget(key_id)
    return _told_once(reply, made)


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


def _told_once(reply: Reply, made: list[SecretStr]) -> tuple[dict[str, Any], int, dict[str, str]]:
    """The answer with the key's text, which the stored one has not."""
    text = {} if reply.repeated else {"key": made[0].get_secret_value()}
    return reply.body | text | reply.note, reply.status, reply.headers


def _shown(session: Session, key_id: str) -> dict[str, Any]:
    return KeyOut.model_validate(session.get_one(ApiKey, key_id)).model_dump()
