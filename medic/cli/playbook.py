"""`medic playbook`: what is done about a failing service."""

from __future__ import annotations

import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import click

from medic.cli import problem_line
from medic.cli.client import part
from medic.cli.execution import follow_execution
from medic.cli.output import print_table
from medic.cli.remote import NAME, Remote, connected, limited
from medic.errors import Invalid, Misconfigured, Problem
from medic.settings import current

COLUMNS = (
    ("NAME", "name"),
    ("VERSION", "version"),
    ("DESCRIPTION", "description"),
    ("CHANGED", "updated_at"),
)
TRIED = (("STEP", "name"), ("TYPE", "type"), ("WOULD DO", "does"), ("", "said"))
FILE = click.Path(path_type=Path, dir_okay=False, allow_dash=True)


@click.group()
def playbook() -> None:
    """See, check, change and start playbooks."""


@playbook.command("list")
@limited
@connected
def list_playbooks(remote: Remote, limit: int) -> None:
    """List playbooks by name."""
    listed = remote.client.items("/v1/playbooks", limit=limit)
    remote.show_items(listed, COLUMNS, empty="No playbooks yet; add one with `medic playbook apply FILE`.")


@playbook.command("show")
@click.argument("name", type=NAME)
@click.option("--version", type=click.IntRange(1), help="An older one, in place of the newest.")
@connected
def show_playbook(remote: Remote, name: str, version: int | None) -> None:
    """Print a playbook's YAML as it was applied; with --output json, what Medic knows of it too."""
    found = remote.client.get(_path(name), version=version)
    if remote.as_json:
        remote.show(found)
    else:
        click.echo(found["source"], nl=not found["source"].endswith("\n"))


@playbook.command("validate")
@click.argument("files", metavar="FILE...", type=FILE, nargs=-1, required=True)
def validate_playbooks(files: tuple[Path, ...]) -> None:
    """Check playbooks, here and without a server; FILE - is the standard input.

    Ends with 1 when one is wrong; each problem stands on a line of its own as FILE:line:column.
    A step longer than MEDIC_STEP_TIMEOUT_CAP is wrong: set it here as it is set on the workers.
    """
    from medic.playbooks import read  # noqa: PLC0415 - the other commands need no grammar

    longest = timedelta(seconds=current().step_timeout_cap)
    wrong = 0
    for file in files:
        try:
            parsed = read(read_text(file), longest_step=longest)
        except Invalid as error:
            wrong += 1
            tell_problems(file, error)
        else:
            _warn(file, parsed.warnings)
            click.echo(f"{file}: fine, {parsed.playbook.name} with {len(parsed.playbook.steps)} steps")
    if wrong:
        raise SystemExit(1)


@playbook.command("apply")
@click.argument("files", metavar="FILE...", type=FILE, nargs=-1, required=True)
@connected
def apply_playbooks(remote: Remote, files: tuple[Path, ...]) -> None:
    """Store playbooks; each change makes a version.  FILE - is the standard input.

    All are checked by the server before the first is stored.
    """
    texts = {file: read_text(file) for file in files}
    names: dict[Path, str] = {}
    wrong = False
    for file, text in texts.items():
        try:
            checked = remote.client.call("POST", "/v1/playbooks/validate", text=text).body
            names[file] = checked["name"]
        except Invalid as error:
            wrong = True
            tell_problems(file, error)
    if wrong:
        raise SystemExit(1)
    for file, text in texts.items():
        stored = remote.client.call("PUT", _path(names[file]), text=text).body
        _warn(file, tuple(Problem(**found) for found in stored.get("warnings") or ()))
        remote.say(f"{file}: {stored['name']} is at version {stored['version']}", stored)


@playbook.command("start")
@click.argument("name", type=NAME)
@click.option("--service", type=NAME, help="The service that it is for.")
@click.option(
    "--var", "pairs", metavar="NAME=VALUE", multiple=True, help="A variable; may be given several times."
)
@click.option("--follow", is_flag=True, help="Show each step as it happens; ends with 1 unless all is done.")
@connected
def start_playbook(
    remote: Remote, name: str, service: str | None, pairs: tuple[str, ...], follow: bool
) -> None:
    """Start a playbook now."""
    body: dict[str, Any] = {"variables": dict(_pair(pair) for pair in pairs)}
    if service:
        body["service"] = service
    started = remote.client.call("POST", f"{_path(name)}/executions", json=body).body
    if not (follow and remote.as_json):
        remote.say(f"Execution {started['id']} of {name} is {started['state']}.", started)
    if follow:
        follow_execution(remote, started["id"])


@playbook.command("dry-run")
@click.argument("name", type=NAME)
@click.option("--service", type=NAME, help="The service that it would be for.")
@click.option(
    "--var", "pairs", metavar="NAME=VALUE", multiple=True, help="A variable; may be given several times."
)
@connected
def dry_run(remote: Remote, name: str, service: str | None, pairs: tuple[str, ...]) -> None:
    """Try a playbook: each step as it would act.  Nothing is started or sent; ends with 1 when a step would be stopped."""
    body: dict[str, Any] = {"variables": dict(_pair(pair) for pair in pairs)}
    if service:
        body["service"] = service
    tried = remote.client.call("POST", f"{_path(name)}/dry-run", json=body).body
    if remote.as_json:
        remote.show(tried)
    else:
        print_table([_tried(step) for step in tried["steps"]], TRIED, empty="No steps.")
        click.echo(f"Started now it would be {tried['now']}{f': {why}' if (why := tried['why']) else '.'}")
    if not tried["fine"]:
        raise SystemExit(1)


@playbook.command("delete")
@click.argument("name", type=NAME)
@connected
def delete_playbook(remote: Remote, name: str) -> None:
    """Delete a playbook; what runs goes on."""
    remote.client.call("DELETE", _path(name))
    remote.say(f"Playbook {name} is deleted.", {"name": name, "deleted": True})


def read_text(file: Path) -> str:
    """A file's text; ``-`` is the standard input.

    :raises Misconfigured: it cannot be read, or is no text.
    """
    if str(file) == "-":
        return sys.stdin.read()
    try:
        return file.read_text(encoding="utf-8")
    except OSError as error:
        raise Misconfigured(f"{file} cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise Misconfigured(f"{file} is not text in UTF-8.") from None


def tell_problems(file: Path, error: Invalid) -> None:
    """Each problem as ``FILE:line:column: path: message``, as compilers do."""
    for problem in error.problems or (Problem("", error.message),):
        click.echo(_at(file, problem), err=True)


def _warn(file: Path, warnings: tuple[Problem, ...]) -> None:
    for problem in warnings:
        click.echo(f"{_at(file, problem)} (a warning)", err=True)


def _tried(step: dict[str, Any]) -> dict[str, Any]:
    said = " ".join(step["problems"])
    if not said and step["skipped"]:
        said = "skipped: its condition does not hold"
    elif not said and step["needs"]:
        said = f"fine, as far as it is known before {', '.join(step['needs'])}"
    return step | {"does": step["shown"], "said": said or "fine"}


def _at(file: Path, problem: Problem) -> str:
    return f"{file}:{'' if problem.line else ' '}{problem_line(problem)}"


def _pair(text: str) -> tuple[str, str]:
    name, sign, value = text.partition("=")
    if not sign or not name:
        raise click.BadParameter(f"{text!r} is not NAME=VALUE", param_hint="--var")
    return name, value


def _path(name: str) -> str:
    return f"/v1/playbooks/{part(name)}"
