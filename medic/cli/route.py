"""`medic route`: which alerts go to which targets."""

from __future__ import annotations

from typing import Any

import click

from medic.cli.client import part
from medic.cli.output import print_json
from medic.cli.remote import NAME, Remote, connected, limited
from medic.errors import NotFound

COLUMNS = (
    ("POSITION", "position"),
    ("NAME", "name"),
    ("ENABLED", "enabled"),
    ("FOR", "for"),
    ("WHEN", "when"),
    ("TELLS", "tells"),
)
TOLD = (("ROUTE", "route"), ("TELLS", "tells"))
BODY = ("levels", "match", "position", "enabled", "default", "period", "calendar", "mode", "escalate_after")
"""What a PUT carries; each is in the answer of a GET too."""
MATCH = ("service", "tags", "priorities", "team", "reasons")
_PRIORITIES = click.Choice(["p1", "p2", "p3", "p4", "p5"])
_REASONS = click.Choice(["missed", "failed", "overrun", "too_few"])


@click.group()
def route() -> None:
    """See and change which alerts go to which targets, and when."""


@route.command("list")
@limited
@connected
def list_routes(remote: Remote, limit: int) -> None:
    """List routes in their order."""
    listed = remote.client.items("/v1/routes", limit=limit)
    listed.items.sort(key=lambda item: (item["default"], item["position"], item["name"]))
    remote.show_items(listed, COLUMNS, empty="No routes yet; make one with `medic route set NAME`.",
                      shown=lambda item: item | {
                          "for": looks_at(item), "when": when(item), "tells": tells(item["levels"], item)
                      })  # fmt: skip


@route.command("show")
@click.argument("name", type=NAME)
@connected
def show_route(remote: Remote, name: str) -> None:
    """Show a route."""
    found = remote.client.get(_path(name))
    if not remote.as_json:
        found |= {"match": looks_at(found), "levels": tells(found["levels"], found)}
    remote.show(found)


@route.command("set")
@click.argument("name", type=NAME)
@click.option(
    "--tell", "levels", multiple=True, metavar="TARGET[,TARGET…]",
    help="Whom; given again, it is the next level, told when nobody acknowledged within --escalate-after.",
)  # fmt: skip
@click.option("--service", help="Alerts of these, as 'web-*'.")
@click.option(
    "--tag", "tags", multiple=True, help="Of services with all of these; may be given several times."
)
@click.option("--priority", "priorities", multiple=True, type=_PRIORITIES, help="Of one of these priorities.")
@click.option("--team", help="Of a team's services.")
@click.option("--reason", "reasons", multiple=True, type=_REASONS, help="For one of these reasons.")
@click.option("--any", "everything", is_flag=True, help="Every alert: forget what it looked at before.")
@click.option(
    "--period", type=click.Choice(["always", "during_hours", "after_hours"]), help="Of the --calendar."
)
@click.option("--calendar", help="Working hours; see `medic calendar`.")
@click.option(
    "--mode", type=click.Choice(["notify_all", "notify_until_success"]),
    help="All targets of a level, or one after the other until one was reached.",
)  # fmt: skip
@click.option("--escalate-after", help="As 15m.")
@click.option("--position", type=click.IntRange(0, 1_000_000), help="Its place in the order.")
@click.option("--default/--no-default", default=None, help="It takes what no other route does.")
@click.option("--enabled/--disabled", default=None)
@connected
def set_route(
    remote: Remote, name: str, levels: tuple[str, ...], everything: bool, period: str | None, **given: Any
) -> None:  # fmt: skip
    """Make route NAME, or change it: what is not given stays."""
    try:
        before = remote.client.call("GET", _path(name))
    except NotFound:
        before = None
        if not levels:
            raise click.UsageError(f"There is no route {name} yet: say whom it tells with --tell.") from None
    body = {key: before.body[key] for key in BODY} if before is not None else {}
    match = (
        {}
        if everything
        else {key: value for key, value in body.get("match", {}).items() if value is not None}
    )
    match |= {
        key: list(given[key]) if isinstance(given[key], tuple) else given[key] for key in MATCH if given[key]
    }
    body |= {key: value for key, value in given.items() if key not in MATCH and value is not None}
    body["match"] = match
    if levels:
        body["levels"] = [[target.strip() for target in level.split(",")] for level in levels]
        if len(levels) == 1 and given["escalate_after"] is None:
            body.pop("escalate_after", None)
    if period is not None:
        body["period"] = period
        if period == "always":
            body.pop("calendar", None)
    body = {key: value for key, value in body.items() if value is not None}
    if before is None:
        stored = remote.client.call("POST", "/v1/routes", json=body | {"name": name}).body
    else:
        stored = remote.client.call("PUT", _path(name), json=body, if_match=before.etag).body
    remote.say(
        f"Route {name} tells {tells(stored['levels'], stored)} of {looks_at(stored)}, {when(stored)}.", stored
    )


@route.command("delete")
@click.argument("name", type=NAME)
@connected
def delete_route(remote: Remote, name: str) -> None:
    """Delete a route."""
    remote.client.call("DELETE", _path(name))
    remote.say(f"Route {name} is deleted.", {"name": name, "deleted": True})


@route.command("preview")
@click.argument("service", type=NAME)
@click.option("--reason", type=_REASONS, help="What is wrong; missed if it is left out.")
@click.option("--priority", type=_PRIORITIES, help="The service's own if it is left out.")
@click.option("--at", help="When, as 2026-11-23T18:00:00Z; now if it is left out.")
@connected
def preview_routes(remote: Remote, service: str, **given: str | None) -> None:
    """Show who would be told of an alert of SERVICE.  Windows, mutes and parents are not looked at."""
    body = {"service": service} | {key: value for key, value in given.items() if value is not None}
    found = remote.client.call("POST", "/v1/routes/preview", json=body).body
    if remote.as_json:
        print_json(found)
        return
    if not found["routes"]:
        click.echo("Nobody would be told: no route is for it.")
    for way in found["routes"]:
        told = [step["targets"] for step in way["told"]]
        click.echo(f"{way['route']}: {tells(told, way) if told else 'nobody, as its targets are disabled'}")


def looks_at(item: dict[str, Any]) -> str:
    """What a route looks at, in words."""
    if item["default"]:
        return "what no other route takes"
    match = item["match"]
    parts = [
        f"{word} {', '.join(value) if isinstance(value, list) else value}"
        for word, value in (
            ("service", match["service"]), ("tags", match["tags"]), ("priority", match["priorities"]),
            ("team", match["team"]), ("reason", match["reasons"]),
        ) if value
    ]  # fmt: skip
    return "; ".join(parts) or "every alert"


def when(item: dict[str, Any]) -> str:
    """When a route is on, in words."""
    words = {"always": "always", "during_hours": "in the hours of", "after_hours": "outside of the hours of"}
    return words[item["period"]] + (f" {item['calendar']}" if item["calendar"] else "")


def tells(levels: list[list[str]], item: dict[str, Any]) -> str:
    """Whom a route tells, in words."""
    between = ", else " if item["mode"] == "notify_until_success" else ", "
    after = f" and after {item['escalate_after']} " if item["escalate_after"] else ""
    return after.join(between.join(level) for level in levels) or "nobody"


def _path(name: str) -> str:
    return f"/v1/routes/{part(name)}"
