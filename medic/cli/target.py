"""`medic target`: where notifications go."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from medic.cli.client import part
from medic.cli.delivery import wait_for
from medic.cli.output import print_json
from medic.cli.playbook import read_text
from medic.cli.remote import NAME, Remote, connected, limited
from medic.errors import MedicError, NotFound

COLUMNS = (
    ("NAME", "name"),
    ("KIND", "kind"),
    ("ENABLED", "enabled"),
    ("CONFIG", "config"),
    ("SECRETS", "secrets"),
    ("PER MINUTE", "per_minute"),
    ("WHY DISABLED", "disabled_reason"),
)
KINDS = ("slack", "pagerduty", "webhook", "email", "apprise")


@click.group()
def target() -> None:
    """See and change where notifications go."""


@target.command("list")
@limited
@connected
def list_targets(remote: Remote, limit: int) -> None:
    """List targets by name, without their secrets."""
    listed = remote.client.items("/v1/targets", limit=limit)
    remote.show_items(listed, COLUMNS, empty="No targets yet; make one with `medic target set NAME`.")


@target.command("show")
@click.argument("name", type=NAME)
@connected
def show_target(remote: Remote, name: str) -> None:
    """Show a target, without its secrets."""
    remote.show(remote.client.get(_path(name)))


@target.command("set")
@click.argument("name", type=NAME)
@click.option(
    "--kind", type=click.Choice(KINDS), help="What it is; another kind starts with an empty configuration."
)
@click.option(
    "--config", "config", multiple=True, metavar="FIELD=VALUE",
    help="A field that may be seen, as channel=C0123456789; a list, a number or the like is written as JSON. Without a"
    " VALUE it is taken away. May be given several times.",
)  # fmt: skip
@click.option(
    "--secret", "secrets", multiple=True, metavar="FIELD",
    help="A field that is secret, as token: it is asked for, or read from the standard input.",
)  # fmt: skip
@click.option(
    "--secret-file",
    "secret_files",
    multiple=True,
    metavar="FIELD=FILE",
    help="The same from a file; - is the input.",
)
@click.option("--clear-secret", multiple=True, metavar="FIELD", help="Take this one away.")
@click.option("--per-minute", type=click.IntRange(1, 10_000), help="How many messages it gets in a minute.")
@connected
def set_target(
    remote: Remote, name: str, kind: str | None, config: tuple[str, ...], secrets: tuple[str, ...],
    secret_files: tuple[str, ...], clear_secret: tuple[str, ...], per_minute: int | None,
) -> None:  # fmt: skip
    """Make target NAME, or change it: what is not given stays.  A secret is never an argument."""
    fields = dict(_pair(item, "--config") for item in config)
    files = dict(_pair(item, "--secret-file") for item in secret_files)
    if len(secrets) + sum(file == "-" for file in files.values()) > 1 and not sys.stdin.isatty():
        raise click.UsageError("The standard input holds one secret; read the others with --secret-file.")
    try:
        before = remote.client.call("GET", _path(name))
    except NotFound:
        before = None
        if kind is None:
            raise click.UsageError(
                f"There is no target {name} yet: say what it is to be with --kind."
            ) from None
    given: dict[str, str | None] = dict.fromkeys(clear_secret)
    given |= {field: _without_end(read_text(Path(file))) for field, file in files.items()}
    given |= {field: typed(field) for field in secrets}
    body: dict[str, Any] = {"kind": kind, "config": {}}
    if before is not None:
        same = kind in (None, before.body["kind"])
        body = {
            "kind": before.body["kind"] if same else kind,
            "config": before.body["config"] if same else {},
            "per_minute": before.body["per_minute"],
        }
    for field, text in fields.items():
        body["config"].pop(field, None)
        if text:
            body["config"][field] = _value(text)
    body |= {"secrets": given} | ({"per_minute": per_minute} if per_minute is not None else {})
    if before is None:
        stored = remote.client.call("POST", "/v1/targets", json=body | {"name": name}).body
    else:
        stored = remote.client.call("PUT", _path(name), json=body, if_match=before.etag).body
    remote.say(f"Target {name} is set; try it with `medic target test {name}`.", stored)


@target.command("delete")
@click.argument("name", type=NAME)
@connected
def delete_target(remote: Remote, name: str) -> None:
    """Delete a target that no route tells."""
    remote.client.call("DELETE", _path(name))
    remote.say(f"Target {name} is deleted.", {"name": name, "deleted": True})


@target.command("test")
@click.argument("name", type=NAME)
@click.option(
    "--wait",
    is_flag=True,
    help="Until it is sent, 2 min at the most; ends with 1 when it failed, with 5 when it is still on its way.",
)
@connected
def try_target(remote: Remote, name: str, wait: bool) -> None:
    """Send a target a test message."""
    sent = remote.client.call("POST", f"{_path(name)}/test").body
    if not wait:
        remote.say(f"A test message to {name} is on its way (delivery {sent['id']}).", sent)
        return
    ended = wait_for(remote, sent["id"])
    if ended["state"] == "delivered":
        remote.say(f"The test message reached {name} (delivery {sent['id']}).", ended)
        return
    if remote.as_json:
        print_json(ended)
    raise MedicError(f"The test message did not reach {name}: {ended['error']}")


@target.command("enable")
@click.argument("name", type=NAME)
@connected
def enable_target(remote: Remote, name: str) -> None:
    """Tell a target again that Medic had disabled, as it could not be reached as it was set up."""
    remote.say(f"Target {name} is told again.", remote.client.call("POST", f"{_path(name)}/enable").body)


def _pair(item: str, option: str) -> tuple[str, str]:
    field, equals, value = item.partition("=")
    if not field or not equals:
        raise click.BadParameter(f"{field!r} stands without a value", param_hint=option)
    return field, value


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def typed(field: str) -> str:
    """A secret: typed twice unseen, or all of the standard input without the line's end that echo adds."""
    if sys.stdin.isatty():
        found: str = click.prompt(field, hide_input=True, confirmation_prompt=True, err=True)
        return found
    return _without_end(sys.stdin.read())


def _without_end(text: str) -> str:
    """Without the line's end that echo and editors add."""
    return text.removesuffix("\n").removesuffix("\r")


def _path(name: str) -> str:
    return f"/v1/targets/{part(name)}"
