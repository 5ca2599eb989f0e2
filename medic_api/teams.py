"""/v1/teams: who looks after services, and the ping key of each."""

from __future__ import annotations

from typing import Any

from apiflask import APIBlueprint
from pydantic import Field, SecretStr
from sqlalchemy.orm import Session

from medic import teams
from medic.db import database_now, in_transaction
from medic.models.alerting import Team
from medic_api.etag import IF_MATCH, if_match, with_etag
from medic_api.fields import Answer, Name, Page, Request, Text, Time
from medic_api.guard import actor, guard, need_wide
from medic_api.guard import services as shared
from medic_api.once import IDEMPOTENT, NOTE, once
from medic_api.paging import cut

bp = APIBlueprint("teams", __name__, url_prefix="/v1", tag="Teams")


class TeamIn(Request):
    """A team."""

    description: Text = Field("", max_length=10_000)
    ping_key_creates: bool = Field(
        False, description="`?create=1` on the team's ping URLs makes services that are not there."
    )


class TeamOut(Answer):
    """A team without its ping key."""

    name: str
    description: str
    has_ping_key: bool
    ping_key_creates: bool
    version: int
    created_at: Time


class TeamPage(Answer):
    items: list[TeamOut]
    next: str | None


class PingKeyIn(Request):
    """The body may be empty: then Medic makes a key."""

    ping_key: Text | None = Field(None, description="One that the team has already, in Healthchecks say.")


class PingKeyOut(Answer):
    """A team's new ping key."""

    team: Name
    ping_key: str | None = Field(description="Shown this once.")
    ping_url: str | None = Field(
        description="Where it pings; put the service's name in the place of `SERVICE`."
    )
    note: str | None = Field(None, description=NOTE)


@bp.get("/teams")
@guard(scope="services:read", rate="management")
@bp.doc(summary="List teams by name")
@bp.input(Page, location="query")
@bp.output(TeamPage)
def list_teams(query_data: Page) -> Any:
    def work(session: Session) -> dict[str, Any]:
        rows = teams.page(session, after=query_data.after, limit=query_data.limit + 1)
        return cut(rows, query_data, lambda team: team.name, _view)

    return in_transaction(shared().engine, work)


@bp.put("/teams/<name:name>")
@guard(scope="services:write", rate="management")
@bp.doc(
    summary="Make or change a team",
    responses={201: "The team was made."},
    extensions={"x-headers": IF_MATCH},
)
@bp.input(TeamIn, location="json")
@bp.output(TeamOut)
def put_team(name: str, json_data: TeamIn) -> Any:
    need_wide()
    version = if_match()

    def work(session: Session) -> tuple[dict[str, Any], int]:
        team, made = teams.put(
            session, name=name, description=json_data.description, ping_key_creates=json_data.ping_key_creates,
            actor=actor(), now=database_now(session), if_match=version,
        )  # fmt: skip
        return _view(team), 201 if made else 200

    return with_etag(*in_transaction(shared().engine, work))


@bp.post("/teams/<name:name>/ping-key")
@guard(scope="services:write", rate="management")
@bp.doc(
    summary="Give a team another ping key",
    description="The key is in this answer and nowhere else; the one before ends within 5 s.",
    extensions={"x-headers": IDEMPOTENT},
)
@bp.input(PingKeyIn, location="json")
@bp.output(PingKeyOut, status_code=201)
def set_ping_key(name: str, json_data: PingKeyIn) -> Any:
    need_wide()

    made: list[SecretStr] = []

    def work(session: Session) -> dict[str, Any]:
        key = teams.set_ping_key(
            session, name=name, pepper=shared().settings.need_pepper(), actor=actor(),
            now=database_now(session), given=SecretStr(json_data.ping_key) if json_data.ping_key else None,
        )  # fmt: skip
        made[:] = [key]
        return {"team": name, "ping_key": None, "ping_url": None, "note": None}

    reply = once(work, status=201)
    shown = {}
    if not reply.repeated:  # the stored answer has no secret
        key, base = made[0].get_secret_value(), shared().settings.base_url.rstrip("/")
        shown = {"ping_key": key, "ping_url": f"{base}/ping/{key}/SERVICE"}
    return reply.body | shown | reply.note, reply.status, reply.headers


def _view(team: Team) -> dict[str, Any]:
    return {
        "name": team.name,
        "description": team.description,
        "has_ping_key": team.ping_key_digest is not None,
        "ping_key_creates": team.ping_key_creates,
        "version": team.version,
        "created_at": team.created_at,
    }
