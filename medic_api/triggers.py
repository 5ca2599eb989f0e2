"""/v1/triggers: when a playbook runs by itself."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Annotated, Any, Literal, TypeVar

from apiflask import APIBlueprint
from flask import Response
from pydantic import Field
from sqlalchemy.orm import Session

from medic import triggers, vault
from medic.crypto.key_ring import KeyRing
from medic.db import database_now, in_transaction
from medic.errors import Forbidden, Invalid, Misconfigured, Problem, Unavailable
from medic.models.playbooks import Trigger
from medic.triggers import HookWish, OpenRing, Shown, Stored, Wish
from medic_api.alerts import Nothing
from medic_api.etag import IF_MATCH, if_match, with_etag
from medic_api.fields import Answer, Duration, JsonValue, Name, Page, Pattern, Request, Text, Time
from medic_api.guard import actor, caller, guard
from medic_api.guard import services as shared
from medic_api.once import IDEMPOTENT, NOTE, once
from medic_api.paging import cut, id_cursor

bp = APIBlueprint("triggers", __name__, url_prefix="/v1", tag="Triggers and hooks")

T = TypeVar("T")
Kind = Literal["alert", "schedule", "hook"]
Priority = Literal["p1", "p2", "p3", "p4", "p5"]
Reason = Literal["missed", "failed", "overrun", "too_few"]
Path = Annotated[Text, Field(min_length=1, max_length=256, examples=["commonLabels.host"])]

COMMON = {"playbook", "kind", "mode", "enabled", "variables", "cooldown"}
OWN: dict[str, set[str]] = {
    "alert": {
        "service_pattern", "tags", "priorities", "reasons", "consecutive_failures", "position", "repeat_every",
    },
    "schedule": {"service", "cron", "timezone", "catch_up"},
    "hook": {
        "service", "service_pattern", "service_from", "verification", "mapping", "on_resolved", "repeat_every",
    },
}  # fmt: skip
"""The fields of each kind beside the `COMMON` ones."""


class TriggerIn(Request):
    """A trigger.  An `alert` trigger takes `service_pattern`, `tags`, `priorities`, `reasons`,
    `consecutive_failures`, `position` and `repeat_every`; a `schedule` takes `cron`, `timezone`, `catch_up` and
    `service`; a `hook` takes `verification`, `mapping`, `service` or `service_from` with `service_pattern`,
    `on_resolved` and `repeat_every`. The rest goes with all of them.
    """

    playbook: Name
    kind: Kind
    service: Name | None = Field(None, description="The service that a schedule or a hook is for.")
    service_pattern: Pattern | None = Field(
        None, description="alert: the services that it is for. hook: those that `service_from` may name."
    )
    tags: list[Name] = Field(default_factory=list, max_length=50)
    priorities: list[Priority] = Field(default_factory=list, max_length=5)
    reasons: list[Reason] = Field(default_factory=list, max_length=4)
    consecutive_failures: int = Field(1, ge=1, le=1_000_000)
    position: int = Field(
        100, ge=0, le=1_000_000,
        description="Of several that match, the lowest goes first; then the most `consecutive_failures`, then the id.",
    )  # fmt: skip
    cooldown: Duration | None = None
    repeat_every: Duration | None = Field(
        None, description="Again while the alert, or the group of Alertmanager, is open."
    )
    mode: Literal["live", "shadow"] = "live"
    enabled: bool = True
    variables: dict[Text, JsonValue] = Field(default_factory=dict, max_length=200)
    cron: Text | None = Field(None, max_length=1000, examples=["0 3 * * *"])
    timezone: Text | None = Field(
        None,
        max_length=64,
        description="An IANA zone; MEDIC_TIMEZONE without one.",
        examples=["Europe/Berlin"],
    )
    catch_up: Duration = Field(
        triggers.CATCH_UP, description="How late a time that Medic was away for is still run; 1m to 1d."
    )
    verification: Literal["bearer", "standard_webhooks"] = "bearer"
    mapping: dict[Text, Path] = Field(
        default_factory=dict, max_length=100, description="Variable to the path of its value in the body.",
        examples=[{"HOST": "commonLabels.host"}],
    )  # fmt: skip
    service_from: Path | None = Field(None, description="Where the body names the service.")
    on_resolved: bool = Field(False, description="Start also when a group of Alertmanager is resolved.")

    def wish(self) -> Wish:
        foreign = sorted(self.model_fields_set - COMMON - OWN[self.kind])
        if foreign:
            problems = tuple(
                Problem(name, f"is not a field of a trigger of kind {self.kind}") for name in foreign
            )
            raise Invalid(f"{foreign[0]}: {problems[0].message}", problems=problems)
        return Wish(
            playbook=self.playbook, kind=self.kind, service=self.service, service_pattern=self.service_pattern,
            tags=self.tags, priorities=self.priorities, reasons=self.reasons, position=self.position,
            consecutive_failures=self.consecutive_failures, cooldown=self.cooldown, repeat_every=self.repeat_every,
            mode=self.mode, enabled=self.enabled, variables=self.variables, cron=self.cron,
            timezone=self.timezone or shared().settings.timezone, catch_up=self.catch_up,
            hook=HookWish(self.verification, self.mapping, self.service_from, self.on_resolved),
        )  # fmt: skip


class OccurrenceOut(Answer):
    """What became of one time of a schedule."""

    at: Time
    outcome: Literal["started", "shadow", "refused", "failed", "missed"]
    execution: str | None
    note: str


class TriggerOut(Answer):
    """A trigger; a field that its kind does not have is null."""

    id: int
    playbook: str
    kind: Kind
    origin: Literal["api", "playbook"] = Field(
        description="`playbook`: it is the `trigger:` of the YAML, and read-only here."
    )
    service: str | None = None
    service_pattern: str | None = None
    tags: list[str] | None = None
    priorities: list[str] | None = None
    reasons: list[str] | None = None
    consecutive_failures: int | None = None
    position: int | None = None
    cooldown: Duration | None
    repeat_every: Duration | None = None
    mode: Literal["live", "shadow"]
    enabled: bool
    variables: JsonValue
    cron: str | None = None
    timezone: str | None = None
    catch_up: Duration | None = None
    verification: Literal["bearer", "standard_webhooks"] | None = None
    mapping: dict[str, str] | None = None
    service_from: str | None = None
    on_resolved: bool | None = None
    next_at: Time | None = Field(None, description="When a schedule starts its playbook next.")
    last: OccurrenceOut | None = Field(None, description="The last time of a schedule.")
    version: int
    created_at: Time


class MadeTrigger(TriggerOut):
    """A trigger with what is shown once: the address of its hook and the secret that proves a call."""

    hook_url: str | None = None
    hook_secret: str | None = None
    note: str | None = Field(None, description=NOTE)


class TriggerPage(Answer):
    items: list[TriggerOut]
    next: str | None


class TriggerQuery(Page):
    playbook: Name | None = None
    kind: Kind | None = None


@bp.get("/triggers")
@guard(scope="playbooks:read", rate="management")
@bp.doc(summary="List triggers by id", description="With those that playbooks have of their own.")
@bp.input(TriggerQuery, location="query")
@bp.output(TriggerPage)
def list_triggers(query_data: TriggerQuery) -> Any:
    def work(session: Session) -> dict[str, Any]:
        rows = triggers.page(
            session, after=id_cursor(query_data), limit=query_data.limit + 1, playbook=query_data.playbook,
            kind=query_data.kind, patterns=caller().service_patterns,
        )  # fmt: skip
        return cut(rows, query_data, lambda row: str(row.trigger.id), _view)

    return in_transaction(shared().engine, work)


@bp.post("/triggers")
@guard(scope="playbooks:write", rate="management")
@bp.doc(
    summary="Make a trigger",
    description="The answer has a hook's address and secret, which are shown this once: a repeat has them as null.",
    extensions={"x-headers": IDEMPOTENT},
)
@bp.input(TriggerIn, location="json")
@bp.output(MadeTrigger, status_code=201)
def create_trigger(json_data: TriggerIn) -> Any:
    wish = json_data.wish()
    _need_reach(wish.reach)
    made: list[Shown | None] = []

    def work(session: Session) -> dict[str, Any]:
        stored, shown = triggers.create(
            session, _ring(session), wish=wish, pepper=shared().settings.need_pepper(), actor=actor(),
            now=database_now(session),
        )  # fmt: skip
        made[:] = [shown]
        # The stored answer has no secret.
        return MadeTrigger.model_validate(_view(stored)).model_dump(mode="json")

    reply = _with_keys(lambda: once(work, status=201))
    once_only = shown_once(made[0]) if made and not reply.repeated else {}
    headers = reply.headers | {"Location": f"/v1/triggers/{reply.body['id']}"}
    return with_etag(reply.body | once_only | reply.note, reply.status, headers)


@bp.get("/triggers/<id:trigger_id>")
@guard(scope="playbooks:read", rate="management")
@bp.doc(summary="Show a trigger")
@bp.output(TriggerOut)
def show_trigger(trigger_id: int) -> Any:
    def work(session: Session) -> dict[str, Any]:
        stored = triggers.find(session, trigger_id)
        _mine(stored.trigger)
        return _view(stored)

    return with_etag(in_transaction(shared().engine, work))


@bp.put("/triggers/<id:trigger_id>")
@guard(scope="playbooks:write", rate="management")
@bp.doc(
    summary="Change a trigger",
    description="Its playbook, its kind and a hook's `verification` stay. The `trigger:` of a playbook's YAML is "
    "changed there.",
    extensions={"x-headers": IF_MATCH},
)
@bp.input(TriggerIn, location="json")
@bp.output(TriggerOut)
def put_trigger(trigger_id: int, json_data: TriggerIn) -> Any:
    wish, version = json_data.wish(), if_match()
    _need_reach(wish.reach)

    def work(session: Session) -> dict[str, Any]:
        stored = triggers.change(
            session, trigger_id=trigger_id, wish=wish, may=_mine, actor=actor(), now=database_now(session),
            if_match=version,
        )  # fmt: skip
        return _view(stored)

    return with_etag(in_transaction(shared().engine, work))


@bp.delete("/triggers/<id:trigger_id>")
@guard(scope="playbooks:write", rate="management")
@bp.doc(
    summary="Delete a trigger", description="What it started goes on.", extensions={"x-headers": IF_MATCH}
)
@bp.output({}, status_code=204)
def delete_trigger(trigger_id: int) -> Any:
    version = if_match()
    in_transaction(
        shared().engine,
        lambda session: triggers.remove(
            session,
            trigger_id=trigger_id,
            may=_mine,
            actor=actor(),
            now=database_now(session),
            if_match=version,
        ),
    )
    return Response(status=204)


@bp.post("/triggers/<id:trigger_id>/rotate")
@guard(scope="playbooks:write", rate="management")
@bp.doc(
    summary="Give a hook another address and secret",
    description="Shown this once. The old ones end at once.",
    extensions={"x-headers": IDEMPOTENT},
)
@bp.input(Nothing, location="json")
@bp.output(MadeTrigger)
def rotate_trigger(trigger_id: int, json_data: Nothing) -> Any:  # noqa: ARG001 - only that it is empty
    made: list[Shown] = []

    def work(session: Session) -> dict[str, Any]:
        stored, shown = triggers.rotate(
            session, _ring(session), trigger_id=trigger_id, may=_mine, pepper=shared().settings.need_pepper(),
            actor=actor(), now=database_now(session),
        )  # fmt: skip
        made[:] = [shown]
        return MadeTrigger.model_validate(_view(stored)).model_dump(mode="json")

    reply = _with_keys(lambda: once(work, status=200))
    once_only = shown_once(made[0]) if made and not reply.repeated else {}
    return with_etag(reply.body | once_only | reply.note, reply.status, reply.headers)


def _mine(trigger: Trigger) -> None:
    _need_reach(trigger.service_pattern)


def _need_reach(reach: str | None) -> None:
    """A key that is narrowed to services has to do with triggers for nothing but those.

    :raises Forbidden: when this one is for others, or for none.
    """
    patterns = caller().service_patterns
    if patterns is not None and not triggers.is_within(reach, patterns):
        raise Forbidden(
            "This key is narrowed to some services; this trigger is for others, or for no service at all."
        )


def _ring(session: Session) -> OpenRing:
    """The keys, once they are needed; those that do not fit this database seal nothing."""

    def opened() -> KeyRing:
        ring = vault.key_ring(shared().settings)
        vault.check_key(session, ring)
        return ring

    return opened


def _with_keys(work: Callable[[], T]) -> T:
    try:
        return work()
    except Misconfigured as error:
        raise Unavailable(error.message, retry_after=60) from None


def shown_once(shown: Shown | None) -> dict[str, Any]:
    """The address and secret of a hook, for the one answer that has them."""
    if shown is None:
        return {}
    base = shared().settings.base_url.rstrip("/")
    return {
        "hook_url": f"{base}/v1/hooks/{shown.token.get_secret_value()}",
        "hook_secret": shown.secret.get_secret_value(),
    }


def _view(stored: Stored) -> dict[str, Any]:
    trigger, hook, last = stored.trigger, stored.hook, stored.last
    service_from = hook.mapping.get("service") if hook else None
    is_one = trigger.kind != "alert" and service_from is None
    fields: dict[str, Any] = {
        "playbook": stored.playbook,
        "kind": trigger.kind,
        "mode": trigger.mode,
        "enabled": trigger.enabled,
        "variables": trigger.variables,
        "cooldown": _seconds(trigger.cooldown_s),
        "service": trigger.service_pattern if is_one else None,
        "service_pattern": None if is_one else trigger.service_pattern,
        "tags": trigger.tags,
        "priorities": trigger.priorities,
        "reasons": trigger.reasons,
        "consecutive_failures": trigger.consecutive_failures,
        "position": trigger.position,
        "repeat_every": _seconds(trigger.repeat_every_s),
        "cron": trigger.cron,
        "timezone": trigger.timezone,
        "catch_up": _seconds(trigger.catch_up_s),
        "verification": hook.verification if hook else None,
        "mapping": hook.mapping.get("variables", {}) if hook else None,
        "service_from": service_from,
        "on_resolved": hook.on_resolved if hook else None,
    }
    shown = {name: value for name, value in fields.items() if name in COMMON | OWN[trigger.kind]}
    return shown | {
        "id": trigger.id,
        "origin": trigger.origin,
        "next_at": trigger.due_at,
        "last": None if last is None else {
            "at": last.at, "outcome": last.outcome, "note": last.note,
            "execution": str(last.execution_id) if last.execution_id else None,
        },
        "version": trigger.version,
        "created_at": trigger.created_at,
    }  # fmt: skip


def _seconds(value: int | None) -> timedelta | None:
    return None if value is None else timedelta(seconds=value)
