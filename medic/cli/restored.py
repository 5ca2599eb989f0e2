"""`medic restored`: to be run once a backup was restored, before anything else starts."""

from __future__ import annotations

import os
from pathlib import Path

import click

from medic.cli.local_environ import local_environ
from medic.errors import Unavailable
from medic.settings import Settings


@click.command()
@click.option("--reason", default="A backup was restored.", show_default=True, help="Everybody sees it.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="The data folder of a local `medic up`, in place of ./.medic.",
)
@click.option("--output", type=click.Choice(["table", "json"]), default="table", show_default=True)
def restored(reason: str, yes: bool, data_dir: Path | None, output: str) -> None:
    """Hold everything after a backup was restored, so that nothing that already happened happens again.

    Engages the stop switch, and puts each open execution in doubt: a human says what became of its step.  It
    works on the database itself, which the settings must name (MEDIC_DATABASE_URL).
    """
    settings = Settings.from_env(local_environ(os.environ, data_dir or Path(".medic")))
    url = settings.need_database_url()
    if not yes:
        click.confirm("Stop all playbooks and put every open execution in doubt?", abort=True, err=True)

    from sqlalchemy.exc import DBAPIError  # noqa: PLC0415 - whoever says no needs none of it

    from medic import audit  # noqa: PLC0415 - see above
    from medic import restored as work  # noqa: PLC0415 - see above
    from medic.cli.checks import database_reason  # noqa: PLC0415 - see above
    from medic.cli.key import user_name  # noqa: PLC0415 - see above
    from medic.cli.output import print_json  # noqa: PLC0415 - see above
    from medic.db import database_now, in_transaction, make_engine  # noqa: PLC0415 - see above

    engine = make_engine(url, component="medic-restored")
    actor = audit.Actor("shell", user_name())
    try:
        found = in_transaction(
            engine, lambda s: work.restored(s, actor=actor, now=database_now(s), reason=reason)
        )
    except DBAPIError as error:
        raise Unavailable(f"The database cannot be used: {database_reason(error)}") from None
    finally:
        engine.dispose()
    if output == "json":
        print_json(
            {"stopped": True, "in_doubt": found.in_doubt, "waiting_for_approval": found.waiting_for_approval,
             "cancelled": found.cancelled}
        )  # fmt: skip
        return
    click.echo(f"Stopped{'' if found.engaged else ' already'}: no playbook starts or goes on.")
    click.echo(f"{found.in_doubt} executions are in doubt, {found.cancelled} were cancelled.")
    if found.in_doubt:
        click.echo(
            "For each, say what became of its step: `medic execution settle`; list them with `--state in_doubt`."
        )
    if found.waiting_for_approval:
        click.echo(f"{found.waiting_for_approval} wait for an approval that may have been given since the backup: look "
                   "before you approve.")  # fmt: skip
    click.echo("Then `medic resume-all`.")
