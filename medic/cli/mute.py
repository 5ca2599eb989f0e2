"""`medic mute`: quiet about a service, for a reason, until an end."""

from __future__ import annotations

from typing import Any

import click

from medic.cli.remote import NAME, Remote, connected, limited

COLUMNS = (
    ("ID", "id"),
    ("SERVICE", "service"),
    ("REASON", "reason"),
    ("BY", "created_by"),
    ("SINCE", "created_at"),
    ("UNTIL", "ends_at"),
    ("ENDED", "ended_at"),
)


@click.group()
def mute() -> None:
    """Keep quiet about a service: no messages, no playbooks; it is watched as before."""


@mute.command("list")
@click.option("--all", "everything", is_flag=True, help="Those that are over too.")
@click.option("--service", type=NAME, help="Only of this service.")
@limited
@connected
def list_mutes(remote: Remote, everything: bool, service: str | None, limit: int) -> None:
    """List mutes that hold, newest first."""
    active = None if everything else "true"
    listed = remote.client.items("/v1/mutes", limit=limit, active=active, service=service)
    remote.show_items(listed, COLUMNS, empty="No mutes." if everything else "Nothing is muted.")


@mute.command("create")
@click.argument("service", type=NAME)
@click.option("--reason", required=True, help="Why; kept with the mute.")
@click.option("--for", "length", help="How long, as 2h.")
@click.option("--until", "ends_at", help="Until when, as 2026-11-23T18:00:00Z.")
@connected
def create_mute(remote: Remote, service: str, reason: str, length: str | None, ends_at: str | None) -> None:
    """Mute SERVICE; for ALERT_AUTO_UNMUTE_HOURS of the server if no end is given."""
    wish: dict[str, Any] = {"service": service, "reason": reason, "for": length, "ends_at": ends_at}
    body = {key: value for key, value in wish.items() if value is not None}
    made = remote.client.call("POST", "/v1/mutes", json=body).body
    remote.say(f"Service {service} is muted until {made['ends_at'][:19]}Z: mute {made['id']}.", made)


@mute.command("show")
@click.argument("mute_id", metavar="ID", type=click.IntRange(1))
@connected
def show_mute(remote: Remote, mute_id: int) -> None:
    """Show a mute."""
    remote.show(remote.client.get(f"/v1/mutes/{mute_id}"))


@mute.command("end")
@click.argument("mute_id", metavar="ID", type=click.IntRange(1))
@connected
def end_mute(remote: Remote, mute_id: int) -> None:
    """Unmute before the time; what still fails is told."""
    ended = remote.client.call("DELETE", f"/v1/mutes/{mute_id}").body
    remote.say(f"Service {ended['service']} is heard again.", ended)
