"""`medic alert`: what fails now, and what failed."""

from __future__ import annotations

import click

from medic.cli.explain import show_alert_explained
from medic.cli.output import print_table
from medic.cli.remote import NAME, Remote, connected, limited

COLUMNS = (
    ("ID", "id"),
    ("SERVICE", "service"),
    ("PRIORITY", "priority"),
    ("REASONS", "reasons"),
    ("OPENED", "opened_at"),
    ("ACKNOWLEDGED", "acknowledged_at"),
    ("RESOLVED", "resolved_at"),
)
TRANSITIONS = (("AT", "at"), ("WHAT", "kind"), ("REASON", "reason"), ("BY", "actor"))


@click.group()
def alert() -> None:
    """See, acknowledge and resolve alerts."""


@alert.command("list")
@click.option("--all", "everything", is_flag=True, help="Resolved ones too.")
@click.option("--service", type=NAME, help="Only of this service.")
@limited
@connected
def list_alerts(remote: Remote, everything: bool, service: str | None, limit: int) -> None:
    """List open alerts, newest first."""
    active = None if everything else "true"
    listed = remote.client.items("/v1/alerts", limit=limit, active=active, service=service)
    remote.show_items(listed, COLUMNS, empty="No alerts." if everything else "No open alerts.")


@alert.command("show")
@click.argument("alert_id", metavar="ID", type=click.IntRange(1))
@connected
def show_alert(remote: Remote, alert_id: int) -> None:
    """Show an alert and what happened to it."""
    found = remote.client.get(f"/v1/alerts/{alert_id}")
    remote.show(found, leave_out=("transitions",))
    if not remote.as_json:
        click.echo()
        print_table(found.get("transitions", []), TRANSITIONS, empty="Nothing happened to it yet.")


@alert.command("explain")
@click.argument("alert_id", metavar="ID", type=click.IntRange(1))
@connected
def explain_alert(remote: Remote, alert_id: int) -> None:
    """Say why an alert opened, who was told and why not, and what started."""
    show_alert_explained(remote, remote.client.get(f"/v1/alerts/{alert_id}/explain"))


@alert.command("ack")
@click.argument("alert_id", metavar="ID", type=click.IntRange(1))
@connected
def acknowledge_alert(remote: Remote, alert_id: int) -> None:
    """Say that somebody looks after an alert."""
    found = remote.client.call("POST", f"/v1/alerts/{alert_id}/acknowledge", json={}).body
    remote.say(f"Alert {alert_id} of {found['service']} is acknowledged.", found)


@alert.command("resolve")
@click.argument("alert_id", metavar="ID", type=click.IntRange(1))
@click.option("--note", help="Why; kept with the alert.")
@connected
def resolve_alert(remote: Remote, alert_id: int, note: str | None) -> None:
    """Close an alert by hand; it stays closed until a success, or as many more misses as open one."""
    body = {"note": note} if note else {}
    found = remote.client.call("POST", f"/v1/alerts/{alert_id}/resolve", json=body).body
    remote.say(f"Alert {alert_id} of {found['service']} is resolved.", found)
