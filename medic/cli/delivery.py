"""`medic delivery`: who was told what, and what became of it."""

from __future__ import annotations

import time
from typing import Any

import click

from medic.cli.remote import NAME, Remote, connected, limited
from medic.errors import Throttled, Unavailable

COLUMNS = (
    ("ID", "id"),
    ("KIND", "kind"),
    ("SERVICE", "service"),
    ("TARGET", "target"),
    ("ROUTE", "route"),
    ("STATE", "state"),
    ("CREATED", "created_at"),
    ("WHY NOT", "error"),
)
STATES = ("pending", "delivered", "failed", "suppressed")
POLL_S = 0.5
PATIENCE_S = 120.0
"""How long the end of a delivery is waited for: one that fails for now is tried for a day."""


@click.group()
def delivery() -> None:
    """See who was told what."""


@delivery.command("list")
@click.option("--alert", type=click.IntRange(1), help="Only of this alert.")
@click.option("--target", type=NAME, help="Only to this target.")
@click.option("--state", type=click.Choice(STATES), help="Only these.")
@limited
@connected
def list_deliveries(
    remote: Remote, alert: int | None, target: str | None, state: str | None, limit: int
) -> None:
    """List deliveries, newest first."""
    listed = remote.client.items("/v1/deliveries", limit=limit, alert=alert, target=target, state=state)
    remote.show_items(listed, COLUMNS, empty="No deliveries.")


@delivery.command("show")
@click.argument("delivery_id", metavar="ID", type=click.IntRange(1))
@connected
def show_delivery(remote: Remote, delivery_id: int) -> None:
    """Show a delivery and what its target answered."""
    remote.show(remote.client.get(f"/v1/deliveries/{delivery_id}"))


def wait_for(remote: Remote, delivery_id: int) -> dict[str, Any]:
    """A delivery once it is over.

    :raises Unavailable: it is not over in time; says what went wrong last.
    """
    last = "nobody has tried it yet; does a worker of medic.deliveries run?"
    until = time.monotonic() + PATIENCE_S
    while True:
        pause = POLL_S
        try:
            found: dict[str, Any] = remote.client.get(f"/v1/deliveries/{delivery_id}")
        except (Unavailable, Throttled) as error:
            last, pause = error.message, min(error.retry_after, 5.0)
        else:
            if found["state"] != "pending":
                return found
            last = found["error"] or last
        if time.monotonic() + pause > until:
            raise Unavailable(f"Delivery {delivery_id} is still on its way: {last}")
        time.sleep(pause)
