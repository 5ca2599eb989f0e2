"""/v1/playbooks: each PUT of YAML makes a version; executions stay with the one they started from."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from apiflask import APIBlueprint
from flask import Response
from pydantic import Field
from sqlalchemy.orm import Session

from medic import playbooks
from medic.db import database_now, in_transaction
from medic.errors import Invalid, PreconditionFailed
from medic.playbook.document import Parsed
from medic.playbooks import Stored
from medic_api.etag import IF_MATCH, if_match, with_etag
from medic_api.fields import Answer, Page, Request, Time
from medic_api.guard import actor, guard, need_wide
from medic_api.guard import services as shared
from medic_api.intake import read_yaml
from medic_api.paging import cut

bp = APIBlueprint("playbooks", __name__, url_prefix="/v1", tag="Playbooks")

EXAMPLE = """\
name: restart-worker
trigger: {service_pattern: "worker-*", consecutive_failures: 3}
steps:
  - name: restart
    type: webhook
    url: https://ops.example.com/restart
  - name: verify
    type: condition
    check: heartbeat_received
    timeout: 6m
"""


class WarningOut(Answer):
    """Something odd that is no error."""

    path: str
    message: str
    line: int | None
    column: int | None


class PlaybookOut(Answer):
    """A playbook without its text."""

    name: str
    description: str
    version: int = Field(description="The newest version.")
    enabled: bool
    created_at: Time
    updated_at: Time


class PlaybookDetail(PlaybookOut):
    """A playbook with the text of one version."""

    version: int = Field(description="Of the text that is shown.")
    newest_version: int
    source: str
    version_created_at: Time
    version_created_by: str
    warnings: list[WarningOut]


class PlaybookPage(Answer):
    items: list[PlaybookOut]
    next: str | None


class VersionQuery(Request):
    version: int | None = Field(None, ge=1, le=2**31 - 1, description="An earlier version; else the newest.")


class ValidOut(Answer):
    """The YAML is a playbook."""

    valid: bool
    name: str
    steps: list[str]
    warnings: list[WarningOut]


@bp.get("/playbooks")
@guard(scope="playbooks:read", rate="management")
@bp.doc(summary="List playbooks by name")
@bp.input(Page, location="query")
@bp.output(PlaybookPage)
def list_playbooks(query_data: Page) -> Any:
    def work(session: Session) -> dict[str, Any]:
        rows = playbooks.page(session, after=query_data.after, limit=query_data.limit + 1)
        return cut(rows, query_data, lambda playbook: playbook.name, PlaybookOut.model_validate)

    return in_transaction(shared().engine, work)


@bp.get("/playbooks/<name:name>")
@guard(scope="playbooks:read", rate="management")
@bp.doc(summary="Show a playbook with its YAML")
@bp.input(VersionQuery, location="query")
@bp.output(PlaybookDetail)
def show_playbook(name: str, query_data: VersionQuery) -> Any:
    def work(session: Session) -> dict[str, Any]:
        return _view(playbooks.find(session, name, version=query_data.version))

    return with_etag(in_transaction(shared().engine, work))


@bp.put("/playbooks/<name:name>")
@guard(scope="playbooks:write", rate="management")
@bp.doc(
    summary="Store a version of a playbook",
    description="The body is the YAML. 201 makes the playbook, 200 a version; the same text again makes none.",
    responses={201: "The playbook was made."},
    extensions={"x-yaml": EXAMPLE, "x-headers": IF_MATCH},
)
@bp.output(PlaybookDetail)
def put_playbook(name: str) -> Any:
    need_wide()
    version = if_match()
    source = read_yaml()
    parsed = read_playbook(source)

    def work(session: Session) -> tuple[dict[str, Any], int]:
        now = database_now(session)
        stored = playbooks.put(
            session, name=name, source=source, parsed=parsed, actor=actor(), now=now, if_match=version
        )
        is_new = stored.version.version == 1 and stored.version.created_at == now
        return _view(stored), 201 if is_new else 200

    return with_etag(*in_transaction(shared().engine, work))


@bp.delete("/playbooks/<name:name>")
@guard(scope="playbooks:write", rate="management")
@bp.doc(
    summary="Delete a playbook",
    description="It starts no more; what runs goes on by its version.",
    extensions={"x-headers": IF_MATCH},
)
@bp.output({}, status_code=204)
def delete_playbook(name: str) -> Any:
    need_wide()
    version = if_match()

    def work(session: Session) -> None:
        if version is not None and playbooks.find(session, name).playbook.version != version:
            raise PreconditionFailed("The playbook was changed since; look at it again.")
        playbooks.remove(session, name=name, actor=actor(), now=database_now(session))

    in_transaction(shared().engine, work)
    return Response(status=204)


@bp.post("/playbooks/validate")
@guard(scope="playbooks:read", rate="management")
@bp.doc(
    summary="Check a playbook's YAML",
    description="Stores nothing. 422 names each problem with its line and column.",
    extensions={"x-yaml": EXAMPLE},
)
@bp.output(ValidOut)
def validate_playbook() -> Any:
    parsed = read_playbook(read_yaml())
    return {
        "valid": True,
        "name": parsed.playbook.name,
        "steps": [step.name for step in parsed.playbook.steps],
        "warnings": parsed.warnings,
    }


def read_playbook(source: str) -> Parsed:
    """Read a playbook as this installation takes it."""
    if "\x00" in source:
        raise Invalid.at("", "The YAML holds a NUL character.")
    return playbooks.read(source, longest_step=timedelta(seconds=shared().settings.step_timeout_cap))


def _view(stored: Stored) -> dict[str, Any]:
    playbook, version = stored.playbook, stored.version
    return {
        "name": playbook.name,
        "description": playbook.description,
        "version": version.version,
        "newest_version": playbook.version,
        "enabled": playbook.enabled,
        "created_at": playbook.created_at,
        "updated_at": playbook.updated_at,
        "source": version.source,
        "version_created_at": version.created_at,
        "version_created_by": version.created_by,
        "warnings": stored.warnings,
    }
