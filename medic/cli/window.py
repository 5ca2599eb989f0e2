"""`medic window`: planned maintenance."""

from __future__ import annotations

from typing import Any

import click

from medic.cli.client import part
from medic.cli.remote import NAME, Remote, connected, limited

COLUMNS = (
    ("NAME", "name"),
    ("ACTIVE", "active"),
    ("FOR", "for"),
    ("WHEN", "when"),
    ("STARTS", "next_start_at"),
    ("ENDS", "next_end_at"),
    ("REASON", "reason"),
)
PLANNED = (
    ("FROM", "from"),
    ("TO", "to"),
    ("WHAT", "kind"),
    ("NAME", "name"),
    ("FOR", "for"),
    ("REASON", "reason"),
)


@click.group()
def window() -> None:
    """Plan maintenance: no messages, no playbooks for some services, once or again and again."""


@window.command("list")
@limited
@connected
def list_windows(remote: Remote, limit: int) -> None:
    """List windows by name."""
    listed = remote.client.items("/v1/windows", limit=limit)
    remote.show_items(listed, COLUMNS, empty="No windows.", shown=lambda item: item | {
        "for": selected(item["selector"]), "when": when(item)
    })  # fmt: skip


@window.command("show")
@click.argument("name", type=NAME)
@connected
def show_window(remote: Remote, name: str) -> None:
    """Show a window."""
    remote.show(remote.client.get(_path(name)))


@window.command("set")
@click.argument("name", type=NAME)
@click.option("--all", "everything", is_flag=True, help="For every service.")
@click.option(
    "--service", "services", multiple=True, help="For these, as 'web-*'; may be given several times."
)
@click.option("--tag", "tags", multiple=True, help="For those with a tag; may be given several times.")
@click.option("--team", help="For a team's.")
@click.option("--from", "starts_at", help="When it starts, as 2026-11-23T18:00:00Z; now if it is left out.")
@click.option("--until", "ends_at", help="When it ends.")
@click.option("--for", "duration", help="How long, as 2h.")
@click.option("--cron", help="When it starts again and again, as '0 22 * * 6'; needs --for.")
@click.option("--timezone", help="Of --cron, as Europe/Berlin.")
@click.option("--reason", help="Why; shown with it.")
@click.option("--notices", is_flag=True, help="Tell when it starts and ends.")
@connected
def set_window(
    remote: Remote, name: str, everything: bool, services: tuple[str, ...], tags: tuple[str, ...], team: str | None,
    **given: Any,
) -> None:  # fmt: skip
    """Make window NAME, or put another in its place."""
    chosen = {"all": everything or None, "services": list(services), "tags": list(tags), "team": team}
    selector = {key: value for key, value in chosen.items() if value}
    if not selector:
        raise click.UsageError("Say for which services: --service, --tag, --team or --all.")
    body = {"selector": selector} | {key: value for key, value in given.items() if value}
    made = remote.client.call("PUT", _path(name), json=body).body
    state = "holds now" if made["active"] else f"starts {_short(made['next_start_at'])}"
    remote.say(f"Window {name} {state}, and ends {_short(made['next_end_at'])}.", made)


@window.command("delete")
@click.argument("name", type=NAME)
@connected
def delete_window(remote: Remote, name: str) -> None:
    """Delete a window; what it kept quiet and still fails is told."""
    remote.client.call("DELETE", _path(name))
    remote.say(f"Window {name} is deleted.", {"name": name, "deleted": True})


@window.command("plan")
@click.option("--from", "since", help="Now, if it is left out.")
@click.option("--to", "until", help="A week later, if it is left out.")
@click.option("--service", type=NAME, help="Only what is for this service.")
@limited
@connected
def show_plan(remote: Remote, since: str | None, until: str | None, service: str | None, limit: int) -> None:
    """List what is kept quiet between two moments: windows, mutes, paused services."""
    listed = remote.client.items(
        "/v1/suppressions", limit=limit, **{"from": since, "to": until, "service": service}
    )
    remote.show_items(listed, PLANNED, empty="Nothing is kept quiet then.", shown=lambda item: item | {
        "for": item["service"] or selected(item["selector"] or {})
    })  # fmt: skip


def selected(selector: dict[str, Any]) -> str:
    """A window's services in words."""
    if selector.get("all"):
        return "all"
    parts = [*selector.get("services", ()), *(f"tag {tag}" for tag in selector.get("tags", ()))]
    return ", ".join([*parts, *([f"team {selector['team']}"] if selector.get("team") else [])])


def when(item: dict[str, Any]) -> str:
    """A window's times in words."""
    return f"{item['cron']} ({item['timezone']}), {item['duration']}" if item["cron"] else "once"


def _short(at: str | None) -> str:
    return f"{at[:19]}Z" if at else "never"


def _path(name: str) -> str:
    return f"/v1/windows/{part(name)}"
