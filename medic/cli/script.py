"""`medic script`: the scripts that playbooks may run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from medic.cli.client import part
from medic.cli.playbook import FILE, read_text
from medic.cli.remote import NAME, Remote, connected, limited
from medic.errors import Misconfigured

COLUMNS = (
    ("NAME", "name"),
    ("VERSION", "version"),
    ("INTERPRETER", "interpreter"),
    ("NETWORK", "network"),
    ("DESCRIPTION", "description"),
    ("CHANGED", "updated_at"),
)


@click.group()
def script() -> None:
    """See and register the scripts that playbooks may run."""


@script.command("list")
@limited
@connected
def list_scripts(remote: Remote, limit: int) -> None:
    """List scripts by name."""
    listed = remote.client.items("/v1/scripts", limit=limit)
    remote.show_items(listed, COLUMNS, empty="No scripts yet; add one with `medic script put NAME FILE`.")


@script.command("show")
@click.argument("name", type=NAME)
@connected
def show_script(remote: Remote, name: str) -> None:
    """Print a script's text; with --output json, what Medic knows of it too."""
    found = remote.client.get(_path(name))
    if remote.as_json:
        remote.show(found)
    else:
        click.echo(found["content"], nl=not found["content"].endswith("\n"))


@script.command("put")
@click.argument("name", type=NAME)
@click.argument("file", type=FILE)
@click.option(
    "--interpreter", type=click.Choice(["bash", "python"]), help="If the first line does not tell it."
)
@click.option("--network", is_flag=True, help="It may use the network.")
@click.option("--parameters", type=FILE, help="A JSON file with the rules of its parameters.")
@click.option("--description", default="", help="What it does.")
@connected
def put_script(
    remote: Remote, name: str, file: Path, interpreter: str | None, network: bool,
    parameters: Path | None, description: str,
) -> None:  # fmt: skip
    """Register a script, or a new version of it.  FILE - is the standard input.

    A version is whole: what is not given is not taken from the version before.
    """
    content = read_text(file)
    chosen = interpreter or told_by(content)
    if chosen is None:
        raise click.UsageError("The first line does not name bash or python: say which with --interpreter.")
    body = {
        "interpreter": chosen,
        "content": content,
        "network": network,
        "description": description,
        "parameters": _rules(parameters) if parameters else {},
    }
    stored = remote.client.call("PUT", _path(name), json=body).body
    remote.say(f"Script {name} is at version {stored['version']} ({chosen}).", stored)


def told_by(content: str) -> str | None:
    """The interpreter that a script's first line names, as ``#!/usr/bin/env python3``."""
    first = content.partition("\n")[0]
    if not first.startswith("#!"):
        return None
    words = first[2:].replace("/", " ").split()
    for word in words:
        if word in {"bash", "sh"}:
            return "bash"
        if word.startswith("python"):
            return "python"
    return None


def _rules(file: Path) -> Any:
    try:
        return json.loads(read_text(file))
    except ValueError as error:
        raise Misconfigured(f"{file} is not JSON: {error}") from None


def _path(name: str) -> str:
    return f"/v1/scripts/{part(name)}"
