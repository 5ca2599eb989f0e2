"""What commands print: a table for people, JSON for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

_UNBOUND = 10_000
"""Columns of a pipe: a line that is cut would be a wrong answer."""

Columns = Sequence[tuple[str, str]]
"""Title of a column, and the key of its value."""


def print_json(value: Any) -> None:
    """JSON on standard output; beyond ASCII it is escaped, so that nothing steers the terminal."""
    click.echo(json.dumps(value, indent=2))


def print_table(items: Sequence[Mapping[str, Any]], columns: Columns, *, empty: str) -> None:
    """Items as rows.

    :param empty: what is said, on standard error, when there are none.
    """
    if not items:
        click.echo(empty, err=True)
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title, _ in columns:
        table.add_column(title, no_wrap=not _is_terminal())
    for item in items:
        table.add_row(*(Text(cell(item.get(key))) for _, key in columns))
    _print(table)


def print_fields(item: Mapping[str, Any], *, leave_out: Sequence[str] = ()) -> None:
    """One object as lines of name and value; what has no value is left out."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in item.items():
        if name not in leave_out and value not in (None, [], {}, ""):
            table.add_row(Text(name.replace("_", " ")), Text(cell(value)))
    _print(table)


def cell(value: Any) -> str:
    """A value as it stands in a table: times to the second, lists by comma, control characters escaped."""
    match value:
        case None:
            return "-"
        case bool():
            return "yes" if value else "no"
        case list() if all(isinstance(part, str | int) for part in value):
            return printable(", ".join(str(part) for part in value)) or "-"
        case dict() | list():
            return printable(json.dumps(value, ensure_ascii=False))
        case str() if len(value) == 27 and value.endswith("Z") and value[10] == "T":
            return f"{value[:19]}Z"
    return printable(str(value)) or "-"


def printable(text: str) -> str:
    """Text without control characters: what a job sent must not steer the terminal of who reads it."""
    return "".join(
        character if character.isprintable() or character == "\n" else ascii(character)[1:-1]
        for character in text
    )


def _is_terminal() -> bool:
    return sys.stdout.isatty()


def _print(table: Table) -> None:
    if _is_terminal():
        Console(highlight=False).print(table)
        return
    console = Console(width=_UNBOUND, highlight=False, no_color=True)
    with console.capture() as captured:
        console.print(table)
    # Rich fills each line to its column's width; a pipe does not want that.
    click.echo("\n".join(line.rstrip() for line in captured.get().splitlines()))
