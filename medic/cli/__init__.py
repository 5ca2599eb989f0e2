"""The one command line.

Commands are named here and imported when they are called: `medic beat` does not pay for the others.
"""

from __future__ import annotations

import importlib
from typing import Any

import click

from medic import __version__
from medic.errors import MedicError, Misconfigured

EX_CONFIG = 78
"""Exit code of a wrong configuration (sysexits.h)."""

COMMANDS: dict[str, str] = {
    "api": "medic.cli.processes:api",
    "beat": "medic.cli.processes:beat",
    "flower": "medic.cli.processes:flower",
    "up": "medic.cli.up:up",
    "worker": "medic.cli.processes:worker",
}
"""Name of a command to ``module:attribute`` of its click command."""


class LazyGroup(click.Group):
    """A group of commands that are imported by name; turns Medic's errors into one line and an exit code."""

    def __init__(self, *, lazy: dict[str, str], **rest: Any) -> None:
        super().__init__(**rest)
        self._lazy = lazy

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*self._lazy, *super().list_commands(ctx)})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self._lazy:
            return super().get_command(ctx, cmd_name)
        module, _, attribute = self._lazy[cmd_name].partition(":")
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command), cmd_name
        return command

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except MedicError as error:
            click.echo(f"medic: {error}", err=True)
            ctx.exit(EX_CONFIG if isinstance(error, Misconfigured) else 1)


@click.group(cls=LazyGroup, lazy=COMMANDS, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="medic")
def main() -> None:
    """Medic watches services by their heartbeats and heals them by playbooks."""
