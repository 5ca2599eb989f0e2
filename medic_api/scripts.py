"""/v1/scripts: only what is registered here runs."""

from __future__ import annotations

from typing import Any, Literal

from apiflask import APIBlueprint
from pydantic import Field, field_validator
from sqlalchemy.orm import Session

from medic import scripts
from medic.db import database_now, in_transaction
from medic.errors import PreconditionFailed
from medic.models.playbooks import Script, ScriptVersion
from medic_api.etag import IF_MATCH, if_match, with_etag
from medic_api.fields import Answer, JsonValue, Page, Request, Text, Time
from medic_api.guard import actor, guard, need_wide
from medic_api.guard import services as shared
from medic_api.paging import cut

MAX_CONTENT_BYTES = 262_144

bp = APIBlueprint("scripts", __name__, url_prefix="/v1", tag="Scripts")


class ScriptIn(Request):
    """A script.  It gets its parameters as environment, arguments and JSON on stdin, never in its text."""

    interpreter: Literal["bash", "python"]
    content: Text = Field(min_length=1, description="256 KiB at the most.")
    parameters: dict[Text, JsonValue] = Field(default_factory=dict, description="Rules by name.")
    network: bool = Field(False, description="Whether it may use the network.")
    description: Text = Field("", max_length=10_000)

    @field_validator("content")
    @classmethod
    def _fits(cls, value: str) -> str:
        if len(value.encode()) > MAX_CONTENT_BYTES:
            raise ValueError("is larger than 256 KiB")
        return value


class ScriptOut(Answer):
    """A script without its text."""

    name: str
    description: str
    version: int
    interpreter: str
    parameters: JsonValue
    network: bool
    created_at: Time
    updated_at: Time


class ScriptDetail(ScriptOut):
    content: str
    version_created_by: str


class ScriptPage(Answer):
    items: list[ScriptOut]
    next: str | None


@bp.get("/scripts")
@guard(scope="playbooks:read", rate="management")
@bp.doc(summary="List scripts by name")
@bp.input(Page, location="query")
@bp.output(ScriptPage)
def list_scripts(query_data: Page) -> Any:
    def work(session: Session) -> dict[str, Any]:
        rows = scripts.page(session, after=query_data.after, limit=query_data.limit + 1)
        return cut(rows, query_data, lambda row: row[0].name, lambda row: _view(*row))

    return in_transaction(shared().engine, work)


@bp.get("/scripts/<name:name>")
@guard(scope="playbooks:read", rate="management")
@bp.doc(summary="Show a script with its text")
@bp.output(ScriptDetail)
def show_script(name: str) -> Any:
    return with_etag(in_transaction(shared().engine, lambda session: _view(*scripts.find(session, name))))


@bp.put("/scripts/<name:name>")
@guard(scope="scripts:write", rate="management")
@bp.doc(
    summary="Register a version of a script",
    description="201 makes the script, 200 a version; the same again makes none.",
    responses={201: "The script was made."},
    extensions={"x-headers": IF_MATCH},
)
@bp.input(ScriptIn, location="json")
@bp.output(ScriptDetail)
def put_script(name: str, json_data: ScriptIn) -> Any:
    need_wide()
    wanted = if_match()

    def work(session: Session) -> tuple[dict[str, Any], int]:
        now = database_now(session)
        script, version = scripts.put(
            session, name=name, actor=actor(), now=now, interpreter=json_data.interpreter,
            content=json_data.content, parameters=json_data.parameters, network=json_data.network,
            description=json_data.description,
        )  # fmt: skip
        made = version.created_at == now
        if wanted is not None and wanted != version.version - (1 if made else 0):
            raise PreconditionFailed("The script was changed since; look at it again.")
        session.flush()
        return _view(script, version), 201 if made and version.version == 1 else 200

    return with_etag(*in_transaction(shared().engine, work))


def _view(script: Script, version: ScriptVersion) -> dict[str, Any]:
    return {
        "name": script.name,
        "description": script.description,
        "version": version.version,
        "interpreter": version.interpreter,
        "parameters": version.parameters,
        "network": version.network,
        "created_at": script.created_at,
        "updated_at": script.updated_at,
        "content": version.content,
        "version_created_by": version.created_by,
    }
