"""/v1/targets: where notifications go.  What is secret of a target goes in and never comes out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, TypeVar

from apiflask import APIBlueprint
from flask import Response
from pydantic import Field, SecretStr, field_validator
from sqlalchemy.orm import Session

from medic import target_store, vault
from medic.crypto.key_ring import KeyRing
from medic.crypto.sealing import SealBroken
from medic.db import database_now, in_transaction
from medic.deliveries import views
from medic.deliveries.enqueue import enqueue_test
from medic.errors import Conflict, Misconfigured, Unavailable
from medic.models.alerting import Target
from medic.target_store import OpenRing, Wish
from medic_api.deliveries import DeliveryOut, delivery_view
from medic_api.etag import IF_MATCH, if_match, with_etag
from medic_api.fields import Answer, JsonValue, NewName, Page, Request, Text, Time
from medic_api.guard import actor, guard, need_wide
from medic_api.guard import services as shared
from medic_api.once import IDEMPOTENT, once
from medic_api.paging import cut

bp = APIBlueprint("targets", __name__, url_prefix="/v1", tag="Targets and routes")

T = TypeVar("T")


class TargetIn(Request):
    """How a target is reached.  Of `config` and `secrets`, `slack` has `channel`, `api_url` and `token`; `pagerduty`
    `api_url` and `routing_key`; `webhook` `url` (in either), `headers` and `signing_secret`, `bearer`; `email` `to`,
    `from`, `host`, `port`, `tls` and `username`, `password`; `apprise` the secret `url`.
    """

    kind: Literal["slack", "pagerduty", "webhook", "email", "apprise"]
    config: dict[Text, JsonValue] = Field(default_factory=dict, examples=[{"channel": "C0123456789"}])
    secrets: dict[Text, SecretStr | None] = Field(
        default_factory=dict, max_length=20, examples=[{"token": "xoxb-…"}],
        description="Write-only. One that is not sent stays as it is, null takes it away. If the address changes, all are"
        " to be sent again.",
    )  # fmt: skip
    per_minute: int = Field(
        target_store.DEFAULT_PER_MINUTE, ge=1, le=10_000, description="How many messages it gets in a minute."
    )

    @field_validator("secrets")
    @classmethod
    def _is_text(cls, value: dict[str, SecretStr | None]) -> dict[str, SecretStr | None]:
        for secret in value.values():
            text = secret.get_secret_value() if secret is not None else ""
            if "\x00" in text or any("\ud800" <= character <= "\udfff" for character in text):
                raise ValueError("must not hold a NUL character or half of a surrogate pair")
        return value

    def wish(self) -> Wish:
        return Wish(kind=self.kind, config=self.config, secrets=self.secrets, per_minute=self.per_minute)


class NewTarget(TargetIn):
    """A target to make."""

    name: NewName


class TargetOut(Answer):
    """A target without the values of its secrets."""

    id: int
    name: str
    kind: str
    config: JsonValue
    secrets: list[str] = Field(description="The names of those that are set.")
    per_minute: int
    enabled: bool = Field(
        description="false: Medic stopped telling it, as it cannot be reached as it is set up."
    )
    disabled_at: Time | None
    disabled_reason: str | None
    from_settings: bool = Field(
        description="Made of the settings, as SLACK_API_TOKEN, and changed by them alone."
    )
    version: int
    created_at: Time


class TargetPage(Answer):
    items: list[TargetOut]
    next: str | None


class Nothing(Request):
    """No fields; the body may be empty."""


@bp.get("/targets")
@guard(scope="services:read", rate="management")
@bp.doc(summary="List targets by name, without their secrets")
@bp.input(Page, location="query")
@bp.output(TargetPage)
def list_targets(query_data: Page) -> Any:
    def work(session: Session) -> dict[str, Any]:
        rows = target_store.page(session, after=query_data.after, limit=query_data.limit + 1)
        return cut(rows, query_data, lambda target: target.name, _view)

    return in_transaction(shared().engine, work)


@bp.post("/targets")
@guard(scope="targets:write", rate="management")
@bp.doc(summary="Make a target", extensions={"x-headers": IDEMPOTENT})
@bp.input(NewTarget, location="json")
@bp.output(TargetOut, status_code=201)
def create_target(json_data: NewTarget) -> Any:
    need_wide()

    def work(session: Session) -> dict[str, Any]:
        target = target_store.create(
            session, ring(session), name=json_data.name, wish=json_data.wish(), actor=actor(),
            now=database_now(session),
        )  # fmt: skip
        return TargetOut.model_validate(_view(target)).model_dump(mode="json")

    reply = with_keys(lambda: once(work, status=201))
    return with_etag(reply.body, reply.status, reply.headers)


@bp.get("/targets/<name:name>")
@guard(scope="services:read", rate="management")
@bp.doc(summary="Show a target by its name or id")
@bp.output(TargetOut)
def show_target(name: str) -> Any:
    return with_etag(in_transaction(shared().engine, lambda session: _view(target_store.find(session, name))))


@bp.put("/targets/<name:name>")
@guard(scope="targets:write", rate="management")
@bp.doc(
    summary="Make or change a target",
    description="A target that was disabled is enabled by it.",
    responses={201: "The target was made."},
    extensions={"x-headers": IF_MATCH},
)
@bp.input(TargetIn, location="json")
@bp.output(TargetOut)
def put_target(name: str, json_data: TargetIn) -> Any:
    need_wide()
    version = if_match()

    def work(session: Session) -> tuple[dict[str, Any], int]:
        target, made = target_store.put(
            session, ring(session), name=name, wish=json_data.wish(), actor=actor(), now=database_now(session),
            if_match=version,
        )  # fmt: skip
        return _view(target), 201 if made else 200

    return with_etag(*with_keys(lambda: in_transaction(shared().engine, work)))


@bp.delete("/targets/<name:name>")
@guard(scope="targets:write", rate="management")
@bp.doc(
    summary="Delete a target",
    description="Not while a route tells it. What was still to be sent to it fails.",
    extensions={"x-headers": IF_MATCH},
)
@bp.output({}, status_code=204)
def delete_target(name: str) -> Any:
    need_wide()
    version = if_match()
    in_transaction(
        shared().engine,
        lambda session: target_store.remove(
            session, name=name, actor=actor(), now=database_now(session), if_match=version
        ),
    )
    return Response(status=204)


@bp.post("/targets/<name:name>/enable")
@guard(scope="targets:write", rate="management")
@bp.doc(summary="Tell a target again that Medic had disabled", description="A second time changes nothing.")
@bp.input(Nothing, location="json")
@bp.output(TargetOut)
def enable_target(name: str, json_data: Nothing) -> Any:  # noqa: ARG001 - only that it is empty
    need_wide()

    def work(session: Session) -> dict[str, Any]:
        return _view(target_store.enable(session, name=name, actor=actor(), now=database_now(session)))

    return with_etag(in_transaction(shared().engine, work))


@bp.post("/targets/<name:name>/test")
@guard(scope="targets:write", rate="management")
@bp.doc(
    summary="Send a target a test message, also when it is disabled",
    description="The answer is the delivery; `/v1/deliveries` tells what becomes of it.",
    extensions={"x-headers": IDEMPOTENT},
)
@bp.input(Nothing, location="json")
@bp.output(DeliveryOut, status_code=202)
def try_target(name: str, json_data: Nothing) -> Any:  # noqa: ARG001 - only that it is empty
    need_wide()

    def work(session: Session) -> dict[str, Any]:
        target = target_store.find(session, name)
        sent = enqueue_test(session, target, actor(), database_now(session))
        shown = delivery_view(views.show(session, sent.id))
        return DeliveryOut.model_validate(shown).model_dump(mode="json")

    reply = once(work, status=202)
    return reply.body, reply.status, reply.headers


def ring(session: Session) -> OpenRing:
    """The keys, once they are needed; those that do not fit this database seal nothing."""

    def opened() -> KeyRing:
        keys = vault.key_ring(shared().settings)
        vault.check_key(session, keys)
        return keys

    return opened


def with_keys(work: Callable[[], T]) -> T:
    """Do what may need a key; one that is missing is Medic's trouble, not the caller's."""
    try:
        return work()
    except Misconfigured as error:
        raise Unavailable(error.message, retry_after=60) from None
    except SealBroken as error:
        raise Conflict(f"{error.message} Send every secret of this target again.") from None


def _view(target: Target) -> dict[str, Any]:
    return {
        "id": target.id,
        "name": target.name,
        "kind": target.kind,
        "config": target.config,
        "secrets": target_store.secret_names(target),
        "per_minute": target.per_minute,
        "enabled": target.disabled_at is None,
        "disabled_at": target.disabled_at,
        "disabled_reason": target.disabled_reason,
        "from_settings": target.name in target_store.FROM_SETTINGS,
        "version": target.version,
        "created_at": target.created_at,
    }
