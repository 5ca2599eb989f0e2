"""/v1/snapshots: what the configuration was before each change, and back to it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, TypeVar

from apiflask import APIBlueprint
from pydantic import Field, SecretStr, model_validator
from sqlalchemy.orm import Session

from medic import services, snapshots
from medic.db import database_now, in_transaction
from medic.errors import Invalid
from medic.models.access import Snapshot
from medic_api import restoring
from medic_api.fields import Answer, JsonValue, Name, Page, Request, Text, Time
from medic_api.guard import actor, caller, guard, need_wide
from medic_api.guard import services as shared
from medic_api.once import IDEMPOTENT, once
from medic_api.paging import cut, page_by_id
from medic_api.restoring import Change, Work
from medic_api.targets import with_keys

bp = APIBlueprint("snapshots", __name__, url_prefix="/v1", tag="Operations")

T = TypeVar("T")
Kind = Literal["team", "calendar", "target", "service", "route", "window", "playbook", "trigger"]
RESTORE = (
    "Needs the scope that changing the object needs, too. It goes through the same checks as a PUT, is in the audit log, "
    "and leaves snapshots of its own. With `dry_run` it is tried and undone: the answer says what it would do."
)


class SnapshotQuery(Page):
    """What to list."""

    kind: Kind | None = None
    name: Text | None = Field(None, max_length=200, description="Of the object; of a trigger its number.")
    since: Time | None = Field(None, alias="from", description="Changed at or after this time.")
    until: Time | None = Field(None, alias="to", description="Changed before this time.")

    @model_validator(mode="after")
    def _forward(self) -> SnapshotQuery:
        if self.since is not None and self.until is not None and self.until <= self.since:
            raise ValueError("to must be later than from")
        return self


class SnapshotOut(Answer):
    """A change, and whether what was before it is kept here or there was nothing."""

    id: int
    at: Time
    actor: str
    action: str = Field(description="What was done then, as `service.change`.")
    kind: Kind
    name: str
    existed: bool = Field(description="false: the change made the object; to restore that is to delete it.")
    restored_at: Time | None = Field(description="When it was restored last.")
    audit_id: int | None = Field(description="The entry of the change in the audit log.")


class SnapshotPage(Answer):
    items: list[SnapshotOut]
    next: str | None


class DifferenceOut(Answer):
    """A field that is not as it was; null where it is not given."""

    field: str
    now: JsonValue
    then: JsonValue


class SnapshotDetail(SnapshotOut):
    """A snapshot with the object as it was: the body of its PUT (of a playbook, its YAML as `source`)."""

    before: JsonValue = Field(description="null: there was no such object. Secrets stand here by name only.")
    differences: list[DifferenceOut] = Field(description="From what it is now.")


class RestoreIn(Request):
    """How to restore; the body may be empty."""

    dry_run: bool = False
    secrets: dict[Name, dict[Text, SecretStr]] = Field(
        default_factory=dict, max_length=100, examples=[{"team-chat": {"token": "xoxb-…"}}],
        description="Of targets that are made again, by target and name: snapshots keep no secret.",
    )  # fmt: skip


class RestoreAllIn(RestoreIn):
    """A moment, and of what."""

    at: Time
    kinds: list[Kind] = Field(
        default_factory=list, max_length=8, description="Nothing but these; empty means all of them."
    )
    delete_new: bool = Field(False, description="Delete what was made since; else it stays.")


class ChangeOut(Answer):
    """What became of an object."""

    kind: Kind
    name: str
    snapshot: int
    action: Literal["make", "change", "delete", "keep", "none"] = Field(
        description="`keep`: left as it is, and `note` says why."
    )
    differences: list[DifferenceOut] = Field(description="`now` is what it was until this restore.")
    note: str | None
    hook_url: str | None = Field(None, description="Of a hook that was made again; shown this once.")
    hook_secret: str | None = Field(None, description="Shown this once; null in a repeat.")


class RestoredOut(Answer):
    """What a restore did, or would do."""

    dry_run: bool
    changes: list[ChangeOut]


@bp.get("/snapshots")
@guard(scope="audit:read", rate="management")
@bp.doc(
    summary="List changes of the configuration, newest first",
    description="A narrowed key sees those of its services.",
)
@bp.input(SnapshotQuery, location="query")
@bp.output(SnapshotPage)
def list_snapshots(query_data: SnapshotQuery) -> Any:
    patterns = caller().service_patterns
    query = snapshots.query(
        kind=query_data.kind, name=query_data.name, since=query_data.since, until=query_data.until,
        services=services.names_regex(patterns) if patterns is not None else None,
    )  # fmt: skip

    def work(session: Session) -> dict[str, Any]:
        rows = page_by_id(session, query, Snapshot.id, query_data)
        return cut(rows, query_data, lambda row: str(row.id), _view)

    return in_transaction(shared().engine, work)


@bp.get("/snapshots/<id:snapshot_id>")
@guard(scope="audit:read", rate="management")
@bp.doc(summary="Show what an object was before a change, and how it differs now")
@bp.output(SnapshotDetail)
def show_snapshot(snapshot_id: int) -> Any:
    def work(session: Session) -> dict[str, Any]:
        snapshot = snapshots.find(session, snapshot_id)
        kind = restoring.KINDS[snapshot.object_kind]
        kind.may(snapshot.object_name)
        apart = restoring.differences(snapshot.before, kind.now(session, snapshot.object_name))
        return _view(snapshot) | {"before": snapshot.before, "differences": apart}

    return in_transaction(shared().engine, work)


@bp.post("/snapshots/<id:snapshot_id>/restore")
@guard(scope="audit:read", rate="management")
@bp.doc(
    summary="Make an object again what it was before a change",
    description=RESTORE,
    extensions={"x-headers": IDEMPOTENT},
)
@bp.input(RestoreIn, location="json")
@bp.output(RestoredOut)
def restore_snapshot(snapshot_id: int, json_data: RestoreIn) -> Any:
    def apply(work: Work) -> list[Change]:
        snapshot = snapshots.find(work.session, snapshot_id)
        restoring.need(snapshot.object_kind, snapshot.object_name)
        return [restoring.restore_one(work, snapshot)]

    return _restore(apply, json_data)


@bp.post("/snapshots/restore")
@guard(scope="audit:read", rate="management")
@bp.doc(
    summary="Make everything again what it was at a moment",
    description=f"All or nothing. {RESTORE}",
    extensions={"x-headers": IDEMPOTENT},
)
@bp.input(RestoreAllIn, location="json")
@bp.output(RestoredOut)
def restore_everything(json_data: RestoreAllIn) -> Any:
    kinds = json_data.kinds or list(snapshots.KINDS)
    for kind in kinds:
        caller().need(restoring.KINDS[kind].scope)
    need_wide()

    def apply(work: Work) -> list[Change]:
        oldest = shared().settings.snapshot_retention_days
        if not 0 <= (work.now - json_data.at).total_seconds() <= oldest * 86_400:
            raise Invalid.at("at", f"must be in the last {oldest} days: of others nothing is known")
        return restoring.restore_all(work, json_data.at, kinds, delete_new=json_data.delete_new)

    return _restore(apply, json_data)


def _restore(apply: Callable[[Work], list[Change]], wish: RestoreIn) -> Any:
    once_only: list[dict[str, str]] = []

    def work(session: Session) -> dict[str, Any]:
        changes = apply(Work(session, actor(), database_now(session), wish.secrets))
        once_only[:] = [dict(change.once) for change in changes]
        shown = {"dry_run": wish.dry_run, "changes": changes}
        return RestoredOut.model_validate(shown).model_dump(mode="json")

    if wish.dry_run:
        return with_keys(lambda: in_transaction(shared().engine, lambda session: _tried(session, work)))
    reply = with_keys(lambda: once(work, status=200))
    changes = reply.body["changes"]
    if not reply.repeated:  # the stored answer has no secret
        changes = [change | secret for change, secret in zip(changes, once_only, strict=True)]
    return reply.body | {"changes": changes}, reply.status, reply.headers


def _tried(session: Session, work: Callable[[Session], T]) -> T:
    """Do it for real, so that what would stand in the way does, and take it all back."""
    tried = session.begin_nested()
    try:
        return work(session)
    finally:
        tried.rollback()


def _view(snapshot: Snapshot) -> dict[str, Any]:
    return {
        "id": snapshot.id,
        "at": snapshot.at,
        "actor": snapshot.actor,
        "action": snapshot.action,
        "kind": snapshot.object_kind,
        "name": snapshot.object_name,
        "existed": snapshot.before is not None,
        "restored_at": snapshot.restored_at,
        "audit_id": snapshot.audit_id,
    }
