"""`medic service`: what is watched."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from medic.cli.client import part
from medic.cli.explain import show_service_explained
from medic.cli.output import print_table
from medic.cli.remote import NAME, Remote, connected, limited

F = TypeVar("F", bound=Callable[..., Any])

COLUMNS = (
    ("NAME", "name"),
    ("STATUS", "status"),
    ("SCHEDULE", "schedule"),
    ("GRACE", "grace"),
    ("LAST SUCCESS", "last_success_at"),
    ("FAILURES", "consecutive_failures"),
    ("PRIORITY", "priority"),
)
DAYS = (
    ("DAY", "day"),
    ("UPTIME %", "uptime_percent"),
    ("UP S", "up_s"),
    ("DOWN S", "down_s"),
    ("UNKNOWN S", "unknown_s"),
    ("ALERTS", "alerts"),
    ("HEARTBEATS", "heartbeats"),
)
SCHEDULE = ("every", "cron", "on_calendar", "at_least", "within")
POLICY = (
    *SCHEDULE, "timezone", "grace", "max_runtime", "failure_threshold", "recovery_threshold", "renotify_every",
    "priority", "tags", "runbook_url", "description", "playbooks", "team", "depends_on", "paused",
)  # fmt: skip
"""What a PUT carries; each is in the answer of a GET too."""

_OPTIONS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("--every", {"help": "It beats this often, as 5m."}),
    ("--cron", {"help": "It beats at these times, as '30 2 * * *'."}),
    ("--on-calendar", {"help": "The same in systemd's form, as 'Mon..Fri 09:00'."}),
    ("--at-least", {"type": click.IntRange(1), "help": "It beats so many times …"}),
    ("--within", {"help": "… within this time, as 1h."}),
    ("--timezone", {"help": "Of --cron and --on-calendar, as Europe/Berlin."}),
    ("--grace", {"help": "How late it may be, as 1m."}),
    ("--max-runtime", {"help": "How long a run may take."}),
    (
        "--failure-threshold",
        {"type": click.IntRange(1), "help": "Failures in a row that open an alert."},
    ),
    (
        "--recovery-threshold",
        {"type": click.IntRange(1), "help": "Successes in a row that close it."},
    ),
    ("--renotify-every", {"help": "Say it again this often."}),
    ("--priority", {"type": click.Choice(["p1", "p2", "p3", "p4", "p5"]), "help": "Of its alerts."}),
    ("--tag", {"multiple": True, "help": "May be given several times."}),
    ("--runbook-url", {"help": "What people read when it fails."}),
    ("--description", {"help": "What it is."}),
    (
        "--playbooks",
        {"type": click.Choice(["all", "first"]), "help": "Which of several playbooks that match run."},
    ),
    ("--team", {"help": "Whose it is."}),
    ("--depends-on", {"multiple": True, "help": "What it needs itself; may be given several times."}),
)


def policy_options(command: F) -> F:
    """The options that say how a service is watched."""
    for flag, settings in reversed(_OPTIONS):
        command = click.option(flag, **settings)(command)
    return command


@click.group()
def service() -> None:
    """See and change what is watched."""


@service.command("list")
@click.option("--status", type=click.Choice(["new", "up", "late", "down", "paused"]), help="Only these.")
@click.option("--tag", help="Only with this tag.")
@limited
@connected
def list_services(remote: Remote, status: str | None, tag: str | None, limit: int) -> None:
    """List services by name."""
    listed = remote.client.items("/v1/services", limit=limit, status=status, tag=tag)
    remote.show_items(listed, COLUMNS, empty="No services yet; make one with `medic service create`.",
                      shown=lambda item: item | {"schedule": schedule_of(item)})  # fmt: skip


@service.command("show")
@click.argument("name", type=NAME)
@connected
def show_service(remote: Remote, name: str) -> None:
    """Show a service: how it is watched, and how it is."""
    remote.show(remote.client.get(_path(name)))


@service.command("explain")
@click.argument("name", type=NAME)
@click.option(
    "--at", metavar="TIME", help="A time with an offset, as 2026-11-23T03:17:00Z; now, unless said."
)
@connected
def explain_service(remote: Remote, name: str, at: str | None) -> None:
    """Say why a service is as it is, or was at a time: each rule's verdict, and what it was judged by."""
    show_service_explained(remote, remote.client.get(f"{_path(name)}/explain", at=at))


@service.command("stats")
@click.argument("name", type=NAME)
@click.option(
    "--days",
    type=click.IntRange(1, 400),
    default=30,
    show_default=True,
    help="How many days back, today too.",
)
@connected
def show_statistics(remote: Remote, name: str, days: int) -> None:
    """Show how a service was: uptime, alerts and heartbeats by day in UTC, and how long its runs take."""
    found = remote.client.get(f"{_path(name)}/stats", days=days)
    if remote.as_json:
        remote.show(found)
        return
    runs = {f"runs {key}": value for key, value in found["runs"].items()}
    remote.show(found | runs, leave_out=("runs", "days"))
    click.echo()
    print_table(found["days"], DAYS, empty="No days yet.")


@service.command("create")
@click.argument("name", type=NAME)
@policy_options
@click.option("--paused", is_flag=True, help="Do not watch it yet.")
@connected
def create_service(remote: Remote, name: str, paused: bool, **given: Any) -> None:
    """Watch a service NAME, by exactly one of --every, --cron, --on-calendar, or --at-least with --within."""
    body = _wishes(given) | {"name": name} | ({"paused": True} if paused else {})
    made = remote.client.call("POST", "/v1/services", json=body).body
    remote.say(f"Service {name} is watched: {schedule_of(made)}, grace {made['grace']}.", made)


@service.command("change")
@click.argument("name", type=NAME)
@policy_options
@click.option("--clear", multiple=True, type=click.Choice([
    "max-runtime", "renotify-every", "runbook-url", "description", "team", "tags", "depends-on"
]), help="Take this away; may be given several times.")  # fmt: skip
@connected
def change_service(remote: Remote, name: str, clear: tuple[str, ...], **given: Any) -> None:
    """Change how a service is watched; what is not given stays."""
    wishes = _wishes(given)
    if not wishes and not clear:
        raise click.UsageError("Say what to change; see --help.")
    changed = _change(remote, name, wishes, {name.replace("-", "_") for name in clear})
    remote.say(f"Service {name} is changed: {schedule_of(changed)}, grace {changed['grace']}.", changed)


@service.command("pause")
@click.argument("name", type=NAME)
@connected
def pause_service(remote: Remote, name: str) -> None:
    """Stop watching a service; its open alert closes."""
    remote.say(f"Service {name} is paused.", _change(remote, name, {"paused": True}, set()))


@service.command("resume")
@click.argument("name", type=NAME)
@connected
def resume_service(remote: Remote, name: str) -> None:
    """Watch a paused service again, from now on."""
    remote.say(f"Service {name} is watched again.", _change(remote, name, {"paused": False}, set()))


@service.command("delete")
@click.argument("name", type=NAME)
@connected
def delete_service(remote: Remote, name: str) -> None:
    """Delete a service with its heartbeats; its open alert closes."""
    remote.client.call("DELETE", _path(name))
    remote.say(f"Service {name} is deleted.", {"name": name, "deleted": True})


def schedule_of(item: dict[str, Any]) -> str:
    """A service's schedule in words."""
    if item["every"]:
        return f"every {item['every']}"
    if item["at_least"]:
        return f"at least {item['at_least']} within {item['within']}"
    return f"{item['cron'] or item['on_calendar']} ({item['timezone']})"


def _change(remote: Remote, name: str, wishes: dict[str, Any], clear: set[str]) -> dict[str, Any]:
    """Read, merge, write, on the condition that nobody else wrote between."""
    now = remote.client.call("GET", _path(name))
    policy = {key: now.body[key] for key in POLICY}
    if any(key in wishes for key in SCHEDULE):
        # Another kind of schedule takes the place of the one before.
        policy |= dict.fromkeys(SCHEDULE)
        if ("at_least" in wishes) != ("within" in wishes):
            policy |= {key: now.body[key] for key in ("at_least", "within")}
    for key in clear:
        del policy[key]
    body = {key: value for key, value in (policy | wishes).items() if value is not None}
    changed: dict[str, Any] = remote.client.call("PUT", _path(name), json=body, if_match=now.etag).body
    return changed


def _wishes(given: dict[str, Any]) -> dict[str, Any]:
    """What was given on the command line, by the API's names."""
    plural = {"tag": "tags"}
    return {
        plural.get(name, name): list(value) if isinstance(value, tuple) else value
        for name, value in given.items()
        if value not in (None, ())
    }


def _path(name: str) -> str:
    return f"/v1/services/{part(name)}"
