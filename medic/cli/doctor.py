"""`medic doctor`: what is in force, and whether each part answers."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from medic.cli.findings import Finding, Kind, check_process
from medic.settings import Settings

if TYPE_CHECKING:
    from medic.cli.settings_table import InForce

_MARKS = {"ok": ("ok  ", "green"), "warn": ("warn", "yellow"), "fail": ("FAIL", "red")}


@click.command()
@click.option("--worker", is_flag=True, help="Only: do the workers of this machine work?  A probe.")
@click.option("--name", help="With --worker: only the one of this name.")
@click.option("--beat", is_flag=True, help="Only: does the beat of this machine tick?  A probe.")
@click.option("--settings-table", is_flag=True, help="Only: print docs/settings.md.")
@click.option("--env-example", is_flag=True, help="Only: print .env.example.")
@click.option("--url", metavar="URL", help="The API; else MEDIC_BASE_URL, else that of ./.medic.")
@click.option("--key", metavar="KEY", help="The API key or @FILE; else MEDIC_API_KEY, else that of ./.medic.")
@click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="The data folder of a local `medic up`, in place of ./.medic.",
)
@click.option("--output", type=click.Choice(["table", "json"]), default="table", show_default=True)
def doctor(
    worker: bool, name: str | None, beat: bool, settings_table: bool, env_example: bool, url: str | None,
    key: str | None, data_dir: Path | None, output: str,
) -> None:  # fmt: skip
    """Show the settings that are in force (secrets masked), and check every connection.

    Ends with 1 when something fails.  It changes nothing.
    """
    if name and not worker:
        raise click.UsageError("--name goes with --worker.")
    if settings_table:
        from medic.cli.settings_table import settings_document  # noqa: PLC0415 - a probe needs none of it

        click.echo(settings_document(), nl=False)
        return
    if env_example:
        from medic.cli import settings_table as table  # noqa: PLC0415 - a probe needs none of it

        click.echo(table.env_example(), nl=False)
        return
    if worker or beat:
        found = [*(_probe("worker", name) if worker else []), *(_probe("beat", None) if beat else [])]
        _end(found, as_json=output == "json")
    else:
        _whole(url=url, key=key, data_dir=data_dir, as_json=output == "json")


def _probe(kind: Kind, name: str | None) -> list[Finding]:
    return list(check_process(Settings.from_env(os.environ), kind, now=time.time(), name=name))


def _whole(*, url: str | None, key: str | None, data_dir: Path | None, as_json: bool) -> None:
    from medic.cli.local_environ import local_environ  # noqa: PLC0415 - a probe needs none of it
    from medic.cli.settings_table import in_force  # noqa: PLC0415 - see above

    environ = local_environ(os.environ, data_dir or Path(".medic"))
    settings = Settings.from_env(environ)
    shown = in_force(settings, environ)
    if not as_json:
        click.echo("Settings in force")
        for item in shown:
            click.echo(f"  {_line(item)}")
        click.echo("Checks")
    found = []
    for finding in _examine(settings, url=url, key=key, data_dir=data_dir):
        found.append(finding)
        if not as_json:
            _tell(finding)
    unused = [item.variable.name for item in shown if item.is_set and not item.variable.is_used]
    if unused:
        found.append(
            Finding("settings", "warn", f"set, but not used by this version yet: {', '.join(unused)}")
        )
        if not as_json:
            _tell(found[-1])
    settings_json: dict[str, Any] = {item.variable.name: item.value or None for item in shown}
    _end(found, as_json=as_json, told=True, more={"settings": settings_json})


def _examine(
    settings: Settings, *, url: str | None, key: str | None, data_dir: Path | None
) -> Iterator[Finding]:
    from medic.cli import checks, redis_checks  # noqa: PLC0415 - a probe needs none of it
    from medic.client.address import find_address  # noqa: PLC0415 - see above
    from medic.errors import MedicError  # noqa: PLC0415 - see above

    yield from checks.check_database(settings)
    yield from redis_checks.check_redis(settings)
    yield from checks.check_keys(settings)
    yield from checks.check_egress(settings)
    yield from checks.check_sandbox(settings)
    try:
        yield from checks.check_api(find_address(os.environ, url=url, key=key, data_dir=data_dir))
    except MedicError as error:
        yield Finding("API", "fail", str(error))
    now = time.time()
    yield from check_process(settings, "worker", now=now, must_run=False)
    yield from check_process(settings, "beat", now=now, must_run=False)


def _end(
    found: list[Finding], *, as_json: bool, told: bool = False, more: dict[str, Any] | None = None
) -> None:
    """Print what is not told yet, and end with 1 when something failed."""
    if as_json:
        from medic.cli.output import print_json  # noqa: PLC0415 - a probe needs none of it

        checks = [{"name": item.name, "verdict": item.verdict, "text": item.text} for item in found]
        print_json((more or {}) | {"checks": checks})
    elif not told:
        for finding in found:
            _tell(finding)
    if any(finding.verdict == "fail" for finding in found):
        raise SystemExit(1)


def _tell(finding: Finding) -> None:
    word, colour = _MARKS[finding.verdict]
    click.echo(f"  {click.style(word, fg=colour)}  {finding.name}: {finding.text}")


def _line(item: InForce) -> str:
    source = "" if item.is_set else " (default)" if item.value else ""
    note = "" if item.variable.is_used else "  [not used by this version yet]"
    return f"{item.variable.name} = {item.value or 'unset'}{source}{note}"
