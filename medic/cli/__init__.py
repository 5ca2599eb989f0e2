"""The one command line.

Commands are named here and imported when they are called: `medic beat` does not pay for the others.
"""

from __future__ import annotations

import importlib
from typing import Any

import click

from medic import __version__
from medic.errors import (
    Forbidden,
    Invalid,
    MedicError,
    Misconfigured,
    NotFound,
    Problem,
    Throttled,
    Unauthenticated,
    Unavailable,
)

EX_CONFIG = 78
"""Exit code of a wrong configuration (sysexits.h)."""

EXIT_CODES: tuple[tuple[type[MedicError], int], ...] = (
    (Misconfigured, EX_CONFIG),
    (NotFound, 3),
    (Unauthenticated, 4),
    (Forbidden, 4),
    (Unavailable, 5),
    (Throttled, 5),
)
"""What an error makes of the exit code; any other is 1."""

COMMANDS: dict[str, str] = {
    "alert": "medic.cli.alert:alert",
    "api": "medic.cli.processes:api",
    "approve": "medic.cli.approval:approve",
    "audit": "medic.cli.audit:audit",
    "beat": "medic.cli.processes:beat",
    "calendar": "medic.cli.calendar:calendar",
    "delivery": "medic.cli.delivery:delivery",
    "demo": "medic.cli.demo:demo",
    "doctor": "medic.cli.doctor:doctor",
    "execution": "medic.cli.execution:execution",
    "flower": "medic.cli.processes:flower",
    "heartbeat": "medic.cli.heartbeat:heartbeat",
    "key": "medic.cli.key:key",
    "migrate": "medic.cli.migrate:migrate",
    "mute": "medic.cli.mute:mute",
    "playbook": "medic.cli.playbook:playbook",
    "reject": "medic.cli.approval:reject",
    "restored": "medic.cli.restored:restored",
    "resume-all": "medic.cli.stop:resume_all",
    "route": "medic.cli.route:route",
    "run": "medic.cli.run:run",
    "script": "medic.cli.script:script",
    "secret": "medic.cli.secret:secret",
    "service": "medic.cli.service:service",
    "snapshot": "medic.cli.snapshot:snapshot",
    "stop-all": "medic.cli.stop:stop_all",
    "target": "medic.cli.target:target",
    "trigger": "medic.cli.trigger:trigger",
    "up": "medic.cli.up:up",
    "window": "medic.cli.window:window",
    "worker": "medic.cli.processes:worker",
}
"""Name of a command to ``module:attribute`` of its click command."""

EPILOG = """\b
Exit codes: 0 done; 1 failed; 2 wrong use; 3 not found; 4 not allowed;
5 Medic is away or busy, try again; 78 wrong configuration."""


class LazyGroup(click.Group):
    """A group of commands that are imported by name; turns Medic's errors into lines and an exit code."""

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
            for line in lines_of(error):
                click.echo(f"medic: {line}", err=True)
            ctx.exit(exit_code(error))


def exit_code(error: MedicError) -> int:
    """The exit code that an error means; see `EPILOG`."""
    return next((code for kind, code in EXIT_CODES if isinstance(error, kind)), 1)


def lines_of(error: MedicError) -> list[str]:
    """An error as lines: its text, or each field that is wrong on a line of its own."""
    problems = error.problems if isinstance(error, Invalid) else ()
    if not problems:
        return [error.message]
    told = problems[0].message in error.message
    return [*([] if told else [error.message]), *(problem_line(problem) for problem in problems)]


def problem_line(problem: Problem) -> str:
    """``line:column: path: message``, as far as each is known."""
    place = f"{problem.line}:{problem.column or 1}" if problem.line else ""
    return ": ".join(part for part in (place, problem.path, problem.message) if part)


@click.group(
    cls=LazyGroup, lazy=COMMANDS, context_settings={"help_option_names": ["-h", "--help"]}, epilog=EPILOG
)
@click.version_option(__version__, prog_name="medic")
def main() -> None:
    """Medic watches services by their heartbeats and heals them by playbooks."""
