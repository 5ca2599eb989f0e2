"""`medic audit`: what was done, by whom, and whether the log of it is whole."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, TypeVar

import click

from medic import csv_text
from medic.cli.client import PAGE
from medic.cli.local_environ import local_environ
from medic.cli.output import print_json
from medic.cli.remote import Remote, connected, limited
from medic.errors import Invalid, Misconfigured, Throttled, Unavailable
from medic.settings import Settings
from medic.times import format_time, parse_time

if TYPE_CHECKING:
    from datetime import datetime

    from sqlalchemy.orm import Session

    from medic.audit_verify import Verified

R = TypeVar("R")

COLUMNS = (
    ("AT", "at"),
    ("BY", "actor"),
    ("ACTION", "action"),
    ("OBJECT", "object"),
    ("FROM", "source"),
    ("DETAIL", "detail"),
    ("SEAL", "seal"),
)
CSV_COLUMNS = ("id", "at", "actor", "action", "object", "source", "request_id", "detail", "seal")


def filtered(command: Callable[..., R]) -> Callable[..., R]:
    """Give a command the options that say which entries it is about."""
    for option in (
        click.option("--to", "until", help="Before this time."),
        click.option("--from", "since", help="At or after this time, as 2026-11-23T18:00:00Z."),
        click.option("--object", "target", metavar="KIND[:NAME]", help="Done to this, as service:web."),
        click.option("--action", help="What was done: service.create, or service for all of that kind."),
        click.option("--actor", metavar="KIND[:ID]", help="Done by this one, as key:4fGh0aBcD1eF, or slack."),
    ):
        command = option(command)
    return command


@click.group()
def audit() -> None:
    """Show, export and verify the audit log."""


@audit.command("list")
@filtered
@limited
@connected
def list_audit(
    remote: Remote, actor: str | None, action: str | None, target: str | None, since: str | None,
    until: str | None, limit: int,
) -> None:  # fmt: skip
    """List what was decided and changed, newest first."""
    wish = _wish(actor, action, target, since, until)
    listed = remote.client.items("/v1/audit", limit=limit, **wish)
    remote.show_items(listed, COLUMNS, empty="Nothing of this kind was done.")


@audit.command("export")
@filtered
@click.option(
    "--format", "form", type=click.Choice(["csv", "json"]), default="csv", show_default=True,
    help="json: one object on each line.",
)  # fmt: skip
@click.option(
    "--file", "path", type=click.Path(dir_okay=False, path_type=Path), help="In place of standard output."
)
@connected
def export_audit(
    remote: Remote, actor: str | None, action: str | None, target: str | None, since: str | None,
    until: str | None, form: str, path: Path | None,
) -> None:  # fmt: skip
    """Write all that fits, newest first.

    In CSV, a cell that a spreadsheet would run as a formula has an apostrophe before it.
    """
    wish = _wish(actor, action, target, since, until)
    count = 0
    with _writing(path) as out:
        if form == "csv":
            out.write(csv_text.lines([CSV_COLUMNS]))
        for items in _pages(remote, wish):
            count += len(items)
            if form == "csv":
                out.write(csv_text.lines([_cell(item, name) for name in CSV_COLUMNS] for item in items))
            else:
                out.writelines(f"{json.dumps(item)}\n" for item in items)
    click.echo(f"{count} entries are exported.", err=True)


@audit.command("verify")
@click.option(
    "--anchor", metavar="NUMBER:HASH",
    help="An end of the chain that was kept elsewhere; without one, a chain that was cut off or made anew looks whole.",
)  # fmt: skip
@click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="The data folder of a local `medic up`, in place of ./.medic.",
)
@click.option("--output", type=click.Choice(["table", "json"]), default="table", show_default=True)
def verify_audit(anchor: str | None, data_dir: Path | None, output: str) -> None:
    """Compare the audit log with its seals; ends with 1 when it was changed.

    It reads the database itself, which the settings must name (MEDIC_DATABASE_URL, MEDIC_AUDIT_KEY), not the API.
    """
    settings = Settings.from_env(local_environ(os.environ, data_dir or Path(".medic")))
    if not settings.audit_keys:
        raise Misconfigured("MEDIC_AUDIT_KEY: must be set, to what the workers have.")
    found, now = _verified(settings, anchor)
    shown = _shown(found, now)
    if output == "json":
        print_json(shown)
    else:
        _tell(shown)
    if found.broken is not None:
        raise SystemExit(1)


def _wish(
    actor: str | None, action: str | None, target: str | None, since: str | None, until: str | None
) -> dict[str, str]:
    wish = {"actor": actor, "action": action, "object": target}
    for name, value in (("from", since), ("to", until)):
        wish[name] = format_time(parse_time(value, path=f"--{name}")) if value is not None else None
    return {name: value for name, value in wish.items() if value is not None}


def _pages(remote: Remote, wish: dict[str, str]) -> Iterator[list[dict[str, Any]]]:
    after: str | None = None
    while True:
        try:
            page = remote.client.get("/v1/audit", limit=PAGE, after=after, **wish)
        except Throttled as busy:
            time.sleep(busy.retry_after)  # a long log is more calls than a minute has
            continue
        if page["items"]:
            yield page["items"]
        after = page["next"]
        if after is None:
            return


def _cell(item: dict[str, Any], name: str) -> Any:
    if name == "detail":
        return json.dumps(item[name], ensure_ascii=False, sort_keys=True)
    return item[name]


@contextmanager
def _writing(path: Path | None) -> Iterator[TextIO]:
    if path is None:
        yield sys.stdout
        return
    try:
        with path.open("w", encoding="utf-8", newline="") as file:
            yield file
    except OSError as error:
        raise Invalid.at("--file", f"cannot be written: {error.strerror}") from None


def _verified(settings: Settings, anchor: str | None) -> tuple[Verified, datetime]:
    from sqlalchemy.exc import DBAPIError  # noqa: PLC0415 - the other commands need no database

    from medic import audit_verify  # noqa: PLC0415 - see above
    from medic.cli.checks import database_reason  # noqa: PLC0415 - see above
    from medic.db import database_now, in_transaction, make_engine  # noqa: PLC0415 - see above

    kept = audit_verify.read_anchor(anchor) if anchor is not None else None
    engine = make_engine(settings.need_database_url(), component="medic-audit")

    def work(session: Session) -> tuple[Verified, datetime]:
        return audit_verify.verify(session, settings.audit_keys, anchor=kept), database_now(session)

    try:
        return in_transaction(engine.execution_options(isolation_level="REPEATABLE READ"), work)
    except DBAPIError as error:
        raise Unavailable(f"The database cannot be used: {database_reason(error)}") from None
    finally:
        engine.dispose()


def _shown(found: Verified, now: datetime) -> dict[str, Any]:
    from medic.audit_verify import REASONS, write_anchor  # noqa: PLC0415 - see _verified

    broken = found.broken
    waits_s = (now - found.unsealed_since).total_seconds() if found.unsealed_since else None
    return {
        "whole": broken is None,
        "broken": None if broken is None else {
            "number": broken.number, "entry": broken.entry_id, "why": broken.why, "text": REASONS[broken.why],
        },
        "sealed": found.sealed,
        "first": found.first,
        "anchor": write_anchor(found.head) if found.head.n else None,
        "unsealed": {"count": found.unsealed, "oldest_s": None if waits_s is None else max(0.0, round(waits_s, 3))},
    }  # fmt: skip


def _tell(shown: dict[str, Any]) -> None:
    broken, tail = shown["broken"], shown["unsealed"]
    if broken is not None:
        entry = f", entry {broken['entry']}" if broken["entry"] is not None else ""
        click.echo(f"BROKEN at seal {broken['number']}{entry}: {broken['text']}.")
        click.echo(f"Before that, {shown['sealed']} entries are as they were sealed.")
    elif shown["first"] is not None:
        click.echo(
            f"Whole: {shown['sealed']} entries are as they were sealed, from seal {shown['first']} on."
        )
    else:
        click.echo("Nothing is sealed yet.")
    if tail["count"]:
        click.echo(f"Not sealed yet: {tail['count']}, the oldest for {tail['oldest_s']:.0f} s.")
    if shown["anchor"] is not None and broken is None:
        click.echo(f"Its end, to be kept elsewhere and given as --anchor: {shown['anchor']}")
