"""`medic secret`: what playbooks send, and nobody reads back."""

from __future__ import annotations

import re
import sys

import click

from medic.cli.client import part
from medic.cli.remote import Remote, connected, limited

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
    if not _NAME.fullmatch(name):
        raise click.BadParameter(f"{name!r} is no name of a secret: letters, digits and _", param_hint="NAME")
    value = value_from_outside()
    stored = remote.client.call("PUT", f"/v1/secrets/{part(name)}", json={"value": value}).body
    remote.say(f"Secret {name} is at version {stored['version']}.", stored)


@secret.command("list")
@limited
@connected
def list_secrets(remote: Remote, limit: int) -> None:
    """List secrets by name, without their values."""
    listed = remote.client.items("/v1/secrets", limit=limit)
    remote.show_items(listed, COLUMNS, empty="No secrets yet; add one with `medic secret set NAME`.")


def value_from_outside() -> str:
    """The value: typed twice unseen, or all of the standard input without the line's end that echo adds."""
    if sys.stdin.isatty():
        typed: str = click.prompt("Value", hide_input=True, confirmation_prompt=True, err=True)
        return typed
    return sys.stdin.read().removesuffix("\n").removesuffix("\r")
