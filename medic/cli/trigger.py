"""`medic trigger`: when playbooks run by themselves."""

from __future__ import annotations

import json
from typing import Any

import click

from medic.cli.remote import NAME, Remote, connected, limited

COLUMNS = (
    ("ID", "id"),
    ("PLAYBOOK", "playbook"),
    ("KIND", "kind"),
    ("WHEN", "when"),
    ("MODE", "mode"),
    ("ENABLED", "enabled"),
    ("NEXT", "next_at"),
    ("FROM", "origin"),
)
READ_ONLY = {"id", "origin", "next_at", "last", "version", "created_at", "hook_url", "hook_secret"}
ID = click.IntRange(1)


@click.group()
def trigger() -> None:
    """See and change when playbooks run by themselves."""


@trigger.command("list")
@click.option("--playbook", type=NAME, help="Only of this playbook.")
@click.option("--kind", type=click.Choice(["alert", "schedule", "hook"]), help="Only of this kind.")
@limited
@connected
def list_triggers(remote: Remote, playbook: str | None, kind: str | None, limit: int) -> None:
    """List triggers by id, with those that playbooks have of their own."""
    listed = remote.client.items("/v1/triggers", limit=limit, playbook=playbook, kind=kind)
    empty = "No triggers yet; make one with `medic trigger create PLAYBOOK`."
    remote.show_items(listed, COLUMNS, empty=empty, shown=lambda item: item | {"when": _when(item)})


@trigger.command("show")
@click.argument("trigger_id", metavar="ID", type=ID)
@connected
def show_trigger(remote: Remote, trigger_id: int) -> None:
    """Show a trigger."""
    remote.show(remote.client.get(_path(trigger_id)))


@trigger.command("create")
@click.argument("playbook", type=NAME)
@click.option("--on-alert", "service_pattern", metavar="PATTERN", help="On alerts of services of this name.")
@click.option("--tag", "tags", multiple=True, help="With --on-alert: the service has this tag too.")
@click.option("--failures", type=click.IntRange(1), help="With --on-alert: misses and failures in a row.")
@click.option("--position", type=click.IntRange(0), help="With --on-alert: the lowest goes first.")
@click.option("--cron", help="By a schedule, as '0 3 * * *'.")
@click.option("--timezone", help="With --cron: an IANA zone, as Europe/Berlin.")
@click.option("--catch-up", help="With --cron: how late a time that Medic was away for is still run.")
@click.option("--hook", "verification", type=click.Choice(["bearer", "standard_webhooks"]),
              help="By a webhook that proves itself so.")  # fmt: skip
@click.option("--map", "mapping", multiple=True, metavar="VARIABLE=PATH",
              help="With --hook: a variable from the body, as HOST=commonLabels.host.")  # fmt: skip
@click.option("--service-from", metavar="PATH", help="With --hook: where the body names the service.")
@click.option(
    "--on-resolved", is_flag=True, help="With --hook: also when a group of Alertmanager is resolved."
)
@click.option("--service", type=NAME, help="With --cron or --hook: the service that it is for.")
@click.option(
    "--var", "variables", multiple=True, metavar="VARIABLE=VALUE", help="A variable; JSON where it is such."
)
@click.option("--cooldown", help="The least time between two executions.")
@click.option("--repeat-every", help="Again while the alert, or the group, is open.")
@click.option("--shadow", is_flag=True, help="Only record what it would have started.")
@connected
def create_trigger(
    remote: Remote, playbook: str, mapping: tuple[str, ...], variables: tuple[str, ...], tags: tuple[str, ...],
    failures: int | None, verification: str | None, on_resolved: bool, shadow: bool, **fields: Any,
) -> None:  # fmt: skip
    """Let PLAYBOOK run by itself: give one of --on-alert, --cron and --hook."""
    kinds = {
        "alert": fields["service_pattern"] is not None or bool(tags),
        "schedule": fields["cron"] is not None,
        "hook": verification is not None,
    }
    if sum(kinds.values()) != 1:
        raise click.UsageError("Give one of --on-alert, --cron and --hook.")
    body: dict[str, Any] = {name: value for name, value in fields.items() if value is not None}
    body |= {"playbook": playbook, "kind": next(kind for kind, given in kinds.items() if given)}
    body |= {"tags": list(tags)} if tags else {}
    body |= {"consecutive_failures": failures} if failures is not None else {}
    body |= {"verification": verification} if verification is not None else {}
    body |= {"on_resolved": True} if on_resolved else {}
    body |= {"mode": "shadow"} if shadow else {}
    body |= {"mapping": dict(_pair(item, "--map") for item in mapping)} if mapping else {}
    given = {name: _value(text) for name, text in (_pair(item, "--var") for item in variables)}
    body |= {"variables": given} if given else {}
    made = remote.client.call("POST", "/v1/triggers", json=body).body
    _say_made(remote, made, f"Trigger {made['id']} starts {playbook}: {_when(made)}.")


@trigger.command("set")
@click.argument("trigger_id", metavar="ID", type=ID)
@click.option("--enable/--disable", "enabled", default=None, help="Whether it starts anything.")
@click.option("--mode", type=click.Choice(["live", "shadow"]), help="shadow only records.")
@click.option("--cron", help="Of a schedule.")
@click.option("--timezone", help="Of a schedule.")
@click.option("--catch-up", help="Of a schedule.")
@click.option("--position", type=click.IntRange(0), help="Of an alert trigger.")
@click.option("--cooldown", help="The least time between two executions.")
@connected
def set_trigger(remote: Remote, trigger_id: int, **fields: Any) -> None:
    """Change a trigger: what is not given stays."""
    before = remote.client.call("GET", _path(trigger_id))
    body = {name: value for name, value in before.body.items() if value is not None and name not in READ_ONLY}
    body |= {name: value for name, value in fields.items() if value is not None}
    stored = remote.client.call("PUT", _path(trigger_id), json=body, if_match=before.etag).body
    remote.say(f"Trigger {trigger_id} is changed.", stored)


@trigger.command("rotate")
@click.argument("trigger_id", metavar="ID", type=ID)
@connected
def rotate_trigger(remote: Remote, trigger_id: int) -> None:
    """Give a hook another address and secret; the old ones end at once."""
    made = remote.client.call("POST", f"{_path(trigger_id)}/rotate").body
    _say_made(remote, made, f"The hook of trigger {trigger_id} has another address and secret.")


@trigger.command("delete")
@click.argument("trigger_id", metavar="ID", type=ID)
@connected
def delete_trigger(remote: Remote, trigger_id: int) -> None:
    """Delete a trigger; what it started goes on."""
    remote.client.call("DELETE", _path(trigger_id))
    remote.say(f"Trigger {trigger_id} is deleted.", {"id": trigger_id, "deleted": True})


def _say_made(remote: Remote, made: dict[str, Any], line: str) -> None:
    if made.get("hook_url"):
        line += f"\nAddress: {made['hook_url']}\nSecret:  {made['hook_secret']}\nBoth are shown this once."
    remote.say(line, made)


def _when(item: dict[str, Any]) -> str:
    if item["kind"] == "schedule":
        return f"cron {item['cron']} ({item['timezone']})"
    if item["kind"] == "hook":
        return f"hook ({item['verification']})"
    tags = f", tags {', '.join(item['tags'])}" if item["tags"] else ""
    return f"alerts of {item['service_pattern']}{tags}, failures {item['consecutive_failures']}"


def _pair(item: str, option: str) -> tuple[str, str]:
    name, equals, value = item.partition("=")
    if not name or not equals:
        raise click.BadParameter(f"{name!r} stands without a value", param_hint=option)
    return name, value


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _path(trigger_id: int) -> str:
    return f"/v1/triggers/{trigger_id}"
