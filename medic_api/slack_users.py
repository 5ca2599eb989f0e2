"""/v1/slack/users: which API key somebody of Slack stands for when they press a button that decides."""

from __future__ import annotations

from typing import Any

from apiflask import APIBlueprint
from flask import Response
from pydantic import Field
from sqlalchemy.orm import Session

from medic import slack_users
from medic.db import database_now, in_transaction
from medic.models.access import SlackUser
from medic_api.fields import Answer, Page, Request, Text, Time
from medic_api.guard import actor, guard, need_wide
from medic_api.guard import services as shared
from medic_api.paging import cut

bp = APIBlueprint("slack_users", __name__, url_prefix="/v1", tag="API keys")


class SlackUserIn(Request):
    """The key that somebody of Slack stands for."""

    key_id: Text = Field(
        pattern=r"^[0-9A-Za-z]{12}$", examples=["4fGh0aBcD1eF"],
        description="What it may do, its holder may do by buttons in Slack.",
    )  # fmt: skip
    name: Text = Field("", max_length=128, description="For people to read.", examples=["Anna"])


class SlackUserOut(Answer):
    """Somebody of Slack."""

    slack_id: str
    key_id: str
    name: str
    created_by: str
    created_at: Time


class SlackUserPage(Answer):
    items: list[SlackUserOut]
    next: str | None


@bp.get("/slack/users")
@guard(scope="admin", rate="management")
@bp.doc(summary="List who of Slack stands for which API key")
@bp.input(Page, location="query")
@bp.output(SlackUserPage)
def list_slack_users(query_data: Page) -> Any:
    need_wide()

    def work(session: Session) -> dict[str, Any]:
        rows = slack_users.page(session, after=query_data.after, limit=query_data.limit + 1)
        return cut(rows, query_data, lambda user: user.slack_id, _view)

    return in_transaction(shared().engine, work)


@bp.put("/slack/users/<slack_id:slack_id>")
@guard(scope="admin", rate="management")
@bp.doc(
    summary="Let somebody of Slack stand for an API key",
    description="Their buttons approve, reject and settle with that key's scopes and services; a key that ends takes it "
    "from them, one that is replaced goes on as the new one.",
    responses={201: "They stood for none."},
)
@bp.input(SlackUserIn, location="json")
@bp.output(SlackUserOut)
def put_slack_user(slack_id: str, json_data: SlackUserIn) -> Any:
    need_wide()

    def work(session: Session) -> tuple[dict[str, Any], int]:
        user, made = slack_users.put(
            session, slack_id=slack_id, key_id=json_data.key_id, name=json_data.name, actor=actor(),
            now=database_now(session),
        )  # fmt: skip
        return _view(user), 201 if made else 200

    return in_transaction(shared().engine, work)


@bp.delete("/slack/users/<slack_id:slack_id>")
@guard(scope="admin", rate="management")
@bp.doc(summary="Take from somebody of Slack the key that they stand for")
@bp.output({}, status_code=204)
def delete_slack_user(slack_id: str) -> Any:
    need_wide()
    in_transaction(
        shared().engine,
        lambda session: slack_users.remove(
            session, slack_id=slack_id, actor=actor(), now=database_now(session)
        ),
    )
    return Response(status=204)


def _view(user: SlackUser) -> dict[str, Any]:
    return {
        "slack_id": user.slack_id,
        "key_id": user.key_id,
        "name": user.name,
        "created_by": user.created_by,
        "created_at": user.created_at,
    }
