"""`medic snapshot`: what the configuration was before each change, and back to it."""

from __future__ import annotations

import json
import sys
from difflib import unified_diff
from typing import Any

import click

from medic.cli.remote import Remote, connected, limited
from medic.cli.target import typed

COLUMNS = (
    ("ID", "id"),
    ("AT", "at"),
    ("ACTION", "action"),
    ("NAME", "name"),
    ("BY", "actor"),
    ("RESTORED", "restored_at"),
)
KINDS = ("team", "calendar", "target", "service", "route", "window", "playbook", "trigger")
WORDS = {
    "make": "made again", "change": "changed back", "delete": "deleted", "keep": "left as it is",
    "none": "is as it was",
}  # fmt: skip


@click.group()
def snapshot() -> None:
    """See the configuration's history, and go back in it."""


@snapshot.command("list")
@click.option("--kind", type=click.Choice(KINDS))
@click.option("--name", help="Of the object; of a trigger its number.")
@click.option(
    "--from", "since", metavar="TIME", help="Changed at or after this time, as 2026-11-23T10:00:00Z."
)
@click.option("--to", "until", metavar="TIME", help="Changed before this time.")
@limited
@connected
def list_snapshots(
    remote: Remote, kind: str | None, name: str | None, since: str | None, until: str | None, limit: int
) -> None:
    """List changes, newest first."""
    asked = {"kind": kind, "name": name, "from": since, "to": until}
    given = {key: value for key, value in asked.items() if value is not None}
    listed = remote.client.items("/v1/snapshots", limit=limit, **given)
    remote.show_items(listed, COLUMNS, empty="No snapshots.")


@snapshot.command("show")
@click.argument("number", type=click.IntRange(min=1), metavar="ID")
@connected
def show_snapshot(remote: Remote, number: int) -> None:
    """Show what an object was before change ID, and how it differs now."""
    found = remote.client.get(f"/v1/snapshots/{number}")
    if remote.as_json:
        remote.show(found)
        return
    click.echo(
        f"{found['kind']} {found['name']} before {found['action']} at {found['at']} by {found['actor']}"
    )
    if found["before"] is None:
        click.echo("There was none.")
    for field, value in (found["before"] or {}).items():
        click.echo(f"  {field}: {_text(value)}")
    click.echo("It differs now:" if found["differences"] else "It is the same now.")
    _tell_differences(found["differences"])


@snapshot.command("restore")
@click.argument("number", type=click.IntRange(min=1), metavar="ID", required=False)
@click.option("--at", metavar="TIME", help="Everything as it was then, in place of one ID.")
@click.option(
    "--kind", "kinds", multiple=True, type=click.Choice(KINDS), help="With --at: nothing but these."
)
@click.option("--delete-new", is_flag=True, help="With --at: delete what was made since.")
@click.option("--dry-run", is_flag=True, help="Say what it would do, and do nothing.")
@click.option(
    "--secret", "secrets", multiple=True, metavar="TARGET.NAME",
    help="Of a target that is made again: no snapshot keeps a secret. It is asked for, or read from the standard input.",
)  # fmt: skip
@connected
def restore(
    remote: Remote, number: int | None, at: str | None, kinds: tuple[str, ...], *, delete_new: bool, dry_run: bool,
    secrets: tuple[str, ...],
) -> None:  # fmt: skip
    """Make an object what it was before change ID, or everything what it was --at a moment."""
    if (number is None) == (at is None):
        raise click.UsageError("Give the ID of a snapshot, or a moment with --at.")
    if at is None and (kinds or delete_new):
        raise click.UsageError("--kind and --delete-new go with --at.")
    body: dict[str, Any] = {"dry_run": dry_run, "secrets": _ask(secrets)}
    path = f"/v1/snapshots/{number}/restore"
    if at is not None:
        path = "/v1/snapshots/restore"
        body |= {"at": at, "kinds": list(kinds), "delete_new": delete_new}
    done = remote.client.call("POST", path, json=body).body
    if remote.as_json:
        remote.show(done)
        return
    if not done["changes"]:
        click.echo("All is as it was then.")
    for change in done["changes"]:
        words = WORDS[change["action"]]
        click.echo(
            f"{change['kind']} {change['name']}: {'would be ' if dry_run and change['action'] != 'none' else ''}"
            f"{words}{', as it ' + change['note'] if change['note'] else ''}"
        )
        if change["action"] == "change":
            _tell_differences(change["differences"])
        if change["hook_url"] is not None and not dry_run:
            click.echo(
                f"  call it at {change['hook_url']}\n  with the secret {change['hook_secret']}, shown this once"
            )


def _ask(names: tuple[str, ...]) -> dict[str, dict[str, str]]:
    if len(names) > 1 and not sys.stdin.isatty():
        raise click.UsageError("The standard input holds one secret; restore one target after the other.")
    found: dict[str, dict[str, str]] = {}
    for text in names:
        target, dot, name = text.rpartition(".")
        if not (target and dot and name):
            raise click.BadParameter(f"{text!r} is not as team-chat.token", param_hint="--secret")
        found.setdefault(target, {})[name] = typed(f"{name} of {target}")
    return found


def _tell_differences(found: list[dict[str, Any]]) -> None:
    for item in found:
        now, then = _text(item["now"]), _text(item["then"])
        if "\n" not in now + then:
            click.echo(f"  {item['field']}: {now} -> {then}")
            continue
        click.echo(f"  {item['field']}:")
        for line in unified_diff(now.splitlines(), then.splitlines(), "now", "then", lineterm="", n=2):
            click.echo(f"    {line}")


def _text(value: Any) -> str:
    if value is None:
        return "-"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
