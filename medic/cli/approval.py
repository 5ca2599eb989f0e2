"""`medic approve` and `medic reject`: the answers of a human."""

from __future__ import annotations

import click

from medic.cli.remote import Remote, connected

COLUMNS = (
    ("ID", "id"),
    ("PLAYBOOK", "playbook"),
    ("SERVICE", "service"),
    ("EXECUTION", "execution_id"),
    ("ASKED", "requested_at"),
    ("ENDS", "expires_at"),
    ("MESSAGE", "message"),
)


@click.command()
@click.argument("approval_id", metavar="[ID]", type=click.IntRange(1), required=False)
@click.option("--comment", help="Kept with the decision.")
@click.option("--plan-digest", help="Only if the plan is still this one; --output json shows it.")
@connected
def approve(remote: Remote, approval_id: int | None, comment: str | None, plan_digest: str | None) -> None:
    """Let an execution go on; without ID, list what waits for an answer."""
    if approval_id is None:
        listed = remote.client.items("/v1/approvals", limit=100, state="pending")
        remote.show_items(listed, COLUMNS, empty="Nothing waits for an approval.")
        return
    _decide(remote, approval_id, "approve", {"comment": comment, "plan_digest": plan_digest})


@click.command()
@click.argument("approval_id", metavar="ID", type=click.IntRange(1))
@click.option("--comment", help="Kept with the decision.")
@connected
def reject(remote: Remote, approval_id: int, comment: str | None) -> None:
    """Do not let an execution go on."""
    _decide(remote, approval_id, "reject", {"comment": comment})


def _decide(remote: Remote, approval_id: int, verdict: str, wish: dict[str, str | None]) -> None:
    body = {name: value for name, value in wish.items() if value is not None}
    found = remote.client.call("POST", f"/v1/approvals/{approval_id}/{verdict}", json=body).body
    remote.say(f"Approval {approval_id} is {found['state']}: {found['playbook']} "
               f"({found['execution_id']}).", found)  # fmt: skip
