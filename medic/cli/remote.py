"""What every command that speaks to a server shares: its options, its client, its way of printing."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from medic.cli.client import Client, Listed
from medic.cli.output import Columns, print_fields, print_json, print_table
from medic.client.address import find_address

R = TypeVar("R")

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,127}", re.ASCII)


class Remote:
    """A server, and the form of the output."""

    def __init__(self, *, url: str | None, key: str | None, data_dir: Path | None, as_json: bool) -> None:
        self._given = (url, key)
        self.data_dir = data_dir
        self.as_json = as_json

    @functools.cached_property
    def client(self) -> Client:
        """Made when it is first needed: a command may find before that it needs none.

        :raises Misconfigured: when no server is named.
        """
        url, key = self._given
        return Client(find_address(os.environ, url=url, key=key, data_dir=self.data_dir))

    def show(self, item: Mapping[str, Any], *, leave_out: Sequence[str] = ()) -> None:
        """Print one object."""
        if self.as_json:
            print_json(item)
        else:
            print_fields(item, leave_out=leave_out)

    def show_items(
        self, listed: Listed, columns: Columns, *, empty: str,
        shown: Callable[[dict[str, Any]], Mapping[str, Any]] = dict,
    ) -> None:  # fmt: skip
        """Print a list.

        :param shown: what a table shows of an item.
        """
        if self.as_json:
            print_json(listed.items)
        else:
            print_table([shown(item) for item in listed.items], columns, empty=empty)
        if listed.has_more:
            click.echo(f"There are more than these {len(listed.items)}; ask for more with --limit.", err=True)

    def say(self, line: str, item: Mapping[str, Any] | None = None) -> None:
        """Say what was done: as one line, or as the object when JSON is asked for."""
        if not self.as_json:
            click.echo(line)
        elif item is not None:
            print_json(item)


def connected(command: Callable[..., R]) -> Callable[..., R]:
    """Give a command the options of the server, and a `Remote` as its first argument."""

    @click.option("--url", metavar="URL", help="The server; else MEDIC_BASE_URL, else that of ./.medic.")
    @click.option(
        "--key",
        metavar="KEY",
        help="The API key, or @FILE to keep it out of the list of processes; else MEDIC_API_KEY"
        " or MEDIC_API_KEY_FILE, else that of ./.medic.",
    )
    @click.option(
        "--data-dir",
        type=click.Path(file_okay=False, path_type=Path),
        help="The data folder of a local `medic up`, in place of ./.medic.",
    )
    @click.option(
        "--output", type=click.Choice(["table", "json"]), default="table", show_default=True,
        help="For people or for programs.",
    )  # fmt: skip
    @functools.wraps(command)
    def with_server(
        *args: Any,
        url: str | None,
        key: str | None,
        data_dir: Path | None,
        output: str,
        **rest: Any,
    ) -> R:
        remote = Remote(url=url, key=key, data_dir=data_dir, as_json=output == "json")
        return command(remote, *args, **rest)

    return with_server


limited = click.option(
    "--limit", type=click.IntRange(1, 100_000), default=100, show_default=True, help="How many at the most."
)
"""The option of a command that lists."""


def NAME(value: str) -> str:  # noqa: N802 - it is used as click's own types are
    """A name of the API, checked before it becomes part of a path."""
    if not _NAME.fullmatch(value):
        raise click.BadParameter(
            f"{value!r} is no name: small letters, digits, and . _ - behind the first character"
        )
    return value
