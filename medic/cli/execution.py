"""`medic execution`: playbooks that run, and that ran."""

from __future__ import annotations

import time
from typing import Any
from uuid import UUID

import click

from medic.cli.output import cell, print_json, print_table
from medic.cli.remote import NAME, Remote, connected, limited
from medic.errors import Throttled, Unavailable

COLUMNS = (
    ("ID", "id"),
    ("PLAYBOOK", "playbook"),
    ("SERVICE", "service"),
    ("STATE", "state"),
    ("CREATED", "created_at"),
    ("FINISHED", "finished_at"),
)
STEPS = (
    ("STEP", "name"),
    ("TYPE", "type"),
    ("STATE", "state"),
    ("STARTED", "started_at"),
    ("ENDED", "ended_at"),
    ("WHAT WENT WRONG", "problem"),
)
STATES = ("pending_approval", "running", "waiting", "in_doubt", "completed", "failed", "cancelled")
FINAL = frozenset({"completed", "failed", "cancelled"})
POLL_S = 1.0
PATIENCE_S = 60.0
"""How long a follower bears an API that is away: a deploy takes less."""


@click.group()
def execution() -> None:
    """See, cancel and settle executions."""


@execution.command("list")
@click.option("--state", type=click.Choice(STATES), help="Only these.")
@click.option("--playbook", type=NAME, help="Only of this playbook.")
@click.option("--service", type=NAME, help="Only for this service.")
@limited
@connected
def list_executions(
    remote: Remote, state: str | None, playbook: str | None, service: str | None, limit: int
) -> None:
    """List executions, newest first."""
    listed = remote.client.items(
        "/v1/executions", limit=limit, state=state, playbook=playbook, service=service
    )
    remote.show_items(listed, COLUMNS, empty="No executions.")


@execution.command("show")
@click.argument("execution_id", metavar="ID", type=click.UUID)
@click.option("--follow", is_flag=True, help="Show each step as it happens; ends with 1 unless all is done.")
@connected
def show_execution(remote: Remote, execution_id: UUID, follow: bool) -> None:
    """Show an execution and its steps."""
    if follow:
        follow_execution(remote, str(execution_id))
        return
    found = remote.client.get(f"/v1/executions/{execution_id}")
    remote.show(found, leave_out=("steps", "approval", "lock"))
    if not remote.as_json:
        if lock := found.get("lock"):
            click.echo(_lock(lock, found["id"]))
        if question := found.get("approval"):
            click.echo(f"waits for approval {question['id']}: `medic approve {question['id']}`")
        click.echo()
        print_table([_step(step) for step in found["steps"]], STEPS, empty="No steps.")


@execution.command("cancel")
@click.argument("execution_id", metavar="ID", type=click.UUID)
@connected
def cancel_execution(remote: Remote, execution_id: UUID) -> None:
    """Cancel an execution: at once when nothing acts, else when the running step ends."""
    found = remote.client.call("POST", f"/v1/executions/{execution_id}/cancel", json={}).body
    done = "is cancelled" if found["state"] == "cancelled" else "is cancelled when its running step ends"
    remote.say(f"Execution {execution_id} {done}.", found)


@execution.command("settle")
@click.argument("execution_id", metavar="ID", type=click.UUID)
@click.argument("verdict", type=click.Choice(["happened", "retry", "fail"]))
@connected
def settle_execution(remote: Remote, execution_id: UUID, verdict: str) -> None:
    """Say what became of a step in doubt.

    happened: it was done, go on behind it; retry: do it again; fail: give up.
    """
    found = remote.client.call(
        "POST", f"/v1/executions/{execution_id}/settle", json={"verdict": verdict}
    ).body
    remote.say(f"Execution {execution_id} is {found['state']}.", found)


def follow_execution(remote: Remote, execution_id: str) -> None:
    """Print each change of an execution until it ends; ends with 1 unless it completed.

    An API that is away for a while (a deploy) is waited for.
    """
    told: dict[str, str] = {}
    away_since: float | None = None
    while True:
        try:
            found = remote.client.get(f"/v1/executions/{execution_id}")
        except (Unavailable, Throttled) as error:
            away_since = away_since or time.monotonic()
            if time.monotonic() - away_since > PATIENCE_S:
                raise
            time.sleep(min(error.retry_after, 5.0))
            continue
        away_since = None
        if not remote.as_json:
            for line in changes(found, told):
                click.echo(line)
        if found["state"] in FINAL:
            if remote.as_json:
                print_json(found)
            if found["state"] != "completed":
                raise SystemExit(1)
            return
        time.sleep(POLL_S)


def changes(found: dict[str, Any], told: dict[str, str]) -> list[str]:
    """What is new since ``told``, which is brought up to date: steps by name, then the whole."""
    lines = []
    for step in found["steps"]:
        if step["state"] != told.get(step["name"], "pending"):
            why = _step(step)["problem"]
            lines.append(f"{step['name']} ({step['type']}): {step['state']}{f', {why}' if why else ''}")
        told[step["name"]] = step["state"]
    if found["state"] != told.get("") and found["state"] != "running":
        waits = f" for {found['waiting_for']}" if found.get("waiting_for") else ""
        lines.append(f"execution: {found['state']}{waits}")
    told[""] = found["state"]
    return lines


def _lock(lock: dict[str, Any], mine: str) -> str:
    name, holder = cell(lock["name"]), lock["held_by"]
    if holder == mine:
        return f"holds the lock {name} until it ends"
    return f"waits for the lock {name}" + (f", which execution {holder} holds" if holder else "")


def _step(step: dict[str, Any]) -> dict[str, Any]:
    error = step.get("error") or {}
    problem = cell(error.get("message") or error.get("code")) if error else None
    return step | {"problem": problem}
