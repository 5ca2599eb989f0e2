"""`medic secret`: what playbooks send, and nobody reads back."""

from __future__ import annotations

import re
import sys

import click

from medic.cli.client import part
from medic.cli.remote import Remote, connected, limited
from medic.errors import NotFound, PreconditionFailed

COLUMNS = (("NAME", "name"), ("VERSION", "version"), ("CHANGED", "updated_at"))
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}", re.ASCII)


@click.group()
def secret() -> None:
    """Set the secrets that playbooks use as ${secrets.NAME}."""


@secret.command("set")
@click.argument("name")
@connected
def set_secret(remote: Remote, name: str) -> None:
    """Set a secret.  The value is asked for, or read from the standard input; it is never an argument."""
    _store(remote, name, if_match=None)


@secret.command("rotate")
@click.argument("name")
@connected
def rotate_secret(remote: Remote, name: str) -> None:
    """Give a secret that exists a new value: a mistyped name makes no new one.

    Steps that begin from now on send the new value.  It comes in as with `set`.
    """
    try:
        _store(remote, name, if_match="*")
    except PreconditionFailed:
        raise NotFound(f"There is no secret {name}; make it with `medic secret set {name}`.") from None


@secret.command("rewrap")
@connected
def rewrap(remote: Remote) -> None:
    """Wrap all that is sealed under the first key of MEDIC_SECRETS_KEY, so that an older one can go.

    Put the new key in front, give every process both, run this, take the old key away.  It may be broken off
    and run again.
    """
    total = 0
    broken: list[str] = []
    body: dict[str, str] = {}
    while True:
        batch = remote.client.call("POST", "/v1/secrets/rewrap", json=body).body
        total += batch["rewrapped"]
        broken += batch["broken"]
        if batch["next"] is None:
            break
        body = {"after": batch["next"], "key_id": batch["key_id"]}
    others = [name for name in batch["in_use"] if name != batch["key_id"]]
    for name in broken:
        click.echo(f"Does not open, and is left as it is: {name}. Set it again.", err=True)
    if others:
        advice = f"Still needed besides: {', '.join(others)}; keep it, and run this again."
    else:
        advice = "No other key is needed: the older ones may be taken out of MEDIC_SECRETS_KEY."
    done = {"key_id": batch["key_id"], "rewrapped": total, "broken": broken, "still_needed": others}
    remote.say(f"Under the key {batch['key_id']} now, that had another: {total}. {advice}", done)
    if broken or others:
        raise SystemExit(1)


@secret.command("list")
@limited
@connected
def list_secrets(remote: Remote, limit: int) -> None:
    """List secrets by name, without their values."""
    listed = remote.client.items("/v1/secrets", limit=limit)
    remote.show_items(listed, COLUMNS, empty="No secrets yet; add one with `medic secret set NAME`.")


def _store(remote: Remote, name: str, *, if_match: str | None) -> None:
    if not _NAME.fullmatch(name):
        raise click.BadParameter(f"{name!r} is no name of a secret: letters, digits and _", param_hint="NAME")
    value = value_from_outside()
    path = f"/v1/secrets/{part(name)}"
    stored = remote.client.call("PUT", path, json={"value": value}, if_match=if_match).body
    remote.say(f"Secret {name} is at version {stored['version']}.", stored)


def value_from_outside() -> str:
    """The value: typed twice unseen, or all of the standard input without the line's end that echo adds."""
    if sys.stdin.isatty():
        typed: str = click.prompt("Value", hide_input=True, confirmation_prompt=True, err=True)
        return typed
    return sys.stdin.read().removesuffix("\n").removesuffix("\r")
