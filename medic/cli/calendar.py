"""`medic calendar`: working hours, which routes may go by."""

from __future__ import annotations

import re
from typing import Any

import click

from medic.cli.client import part
from medic.cli.remote import NAME, Remote, connected, limited
from medic.errors import NotFound

COLUMNS = (
    ("NAME", "name"),
    ("HOURS", "hours"),
    ("TIMEZONE", "timezone"),
    ("HOLIDAYS", "holidays"),
    ("WORKING", "working"),
    ("UNTIL", "changes_at"),
)
DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_HOURS = re.compile(r"([a-z]{3})(?:-([a-z]{3}))?=(.*)", re.ASCII)


@click.group()
def calendar() -> None:
    """See and change working hours and holidays."""


@calendar.command("list")
@limited
@connected
def list_calendars(remote: Remote, limit: int) -> None:
    """List calendars by name."""
    listed = remote.client.items("/v1/calendars", limit=limit)
    remote.show_items(listed, COLUMNS, empty="No calendars.", shown=lambda item: item | {
        "hours": in_words(item["hours"]), "holidays": len(item["holidays"])
    })  # fmt: skip


@calendar.command("show")
@click.argument("name", type=NAME)
@connected
def show_calendar(remote: Remote, name: str) -> None:
    """Show a calendar, and whether these are working hours."""
    found = remote.client.get(_path(name))
    remote.show(found if remote.as_json else found | {"hours": in_words(found["hours"])})


@calendar.command("set")
@click.argument("name", type=NAME)
@click.option(
    "--hours", multiple=True, metavar="DAYS=SPANS",
    help="As mon-fri=09:00-12:30,13:00-17:30; 24:00 is the end of the day; without SPANS nobody works then. May be"
    " given several times.",
)  # fmt: skip
@click.option("--holiday", "holidays", multiple=True, metavar="DATE", help="One more, as 2026-12-25.")
@click.option("--clear-holidays", is_flag=True, help="Forget those before.")
@click.option("--timezone", help="Of the hours, as Europe/Berlin.")
@connected
def set_calendar(
    remote: Remote, name: str, hours: tuple[str, ...], holidays: tuple[str, ...], clear_holidays: bool,
    timezone: str | None,
) -> None:  # fmt: skip
    """Make calendar NAME, or change it: what is not given stays."""
    wanted: dict[str, list[list[str]]] = {}
    for text in hours:
        wanted |= _read(text)
    try:
        before = remote.client.call("GET", _path(name))
    except NotFound:
        before = None
        if not hours:
            raise click.UsageError(
                f"There is no calendar {name} yet: say when people work with --hours."
            ) from None
    old: dict[str, Any] = before.body if before is not None else {"hours": {}, "holidays": []}
    kept = [] if clear_holidays else old["holidays"]
    body: dict[str, Any] = {"hours": old["hours"] | wanted, "holidays": [*kept, *holidays]}
    zone = timezone or old.get("timezone")
    body |= {"timezone": zone} if zone else {}
    if before is None:
        stored = remote.client.call("POST", "/v1/calendars", json=body | {"name": name}).body
    else:
        stored = remote.client.call("PUT", _path(name), json=body, if_match=before.etag).body
    remote.say(f"Calendar {name}: {in_words(stored['hours'])} ({stored['timezone']}).", stored)


@calendar.command("delete")
@click.argument("name", type=NAME)
@connected
def delete_calendar(remote: Remote, name: str) -> None:
    """Delete a calendar that no route goes by."""
    remote.client.call("DELETE", _path(name))
    remote.say(f"Calendar {name} is deleted.", {"name": name, "deleted": True})


def in_words(hours: dict[str, list[list[str]]]) -> str:
    """Hours as --hours takes them, days that are alike together."""
    parts: list[tuple[str, str, str]] = []
    for day in DAYS:
        spans = ",".join("-".join(span) for span in hours.get(day, ()))
        follows = bool(parts) and DAYS.index(parts[-1][1]) + 1 == DAYS.index(day)
        if spans and follows and parts[-1][2] == spans:
            parts[-1] = (parts[-1][0], day, spans)
        elif spans:
            parts.append((day, day, spans))
    return " ".join(f"{a if a == b else f'{a}-{b}'}={spans}" for a, b, spans in parts) or "never"


def _read(text: str) -> dict[str, list[list[str]]]:
    match = _HOURS.fullmatch(text.strip())
    first, last = (match[1], match[2] or match[1]) if match else ("", "")
    if match is None or first not in DAYS or last not in DAYS:
        raise click.BadParameter(f"{text!r} is not as mon-fri=09:00-17:30", param_hint="--hours")
    start, end = DAYS.index(first), DAYS.index(last)
    days = DAYS[start : end + 1] if start <= end else DAYS[start:] + DAYS[: end + 1]
    spans = [span.strip().split("-") for span in match[3].split(",") if span.strip()]
    return dict.fromkeys(days, spans)


def _path(name: str) -> str:
    return f"/v1/calendars/{part(name)}"
