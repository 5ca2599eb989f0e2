"""`medic migrate`: bring the database to this version."""

from __future__ import annotations

import click

from medic.db import make_engine
from medic.errors import Unavailable
from medic.migrate import LaterDatabase, pending, upgrade
from medic.settings import current


@click.command()
@click.option("--check", is_flag=True, help="Change nothing; end with 1 when migrations are pending.")
@click.option(
    "--or-later", is_flag=True, help="A database of a later version is fine: this version was rolled back to."
)
def migrate(check: bool, or_later: bool) -> None:
    """Bring the database to this version; several at once wait for one another.

    It reads the same settings as the processes: MEDIC_DATABASE_URL, DATABASE_URL, or DB_HOST with its parts.
    """
    from sqlalchemy.exc import OperationalError  # noqa: PLC0415 - beside its use

    from medic.cli.checks import database_reason  # noqa: PLC0415 - see above

    url = current().need_database_url()
    try:
        missing = _pending(url)
        if check:
            _tell(missing)
            return
        upgrade(url)
    except LaterDatabase:
        # Later migrations only add, so this version goes on working; a rollback must not wait for a newer one.
        if not or_later:
            raise
        click.echo("The database is of a later version; nothing to do.")
        return
    except OperationalError as error:
        raise Unavailable(f"The database cannot be reached: {database_reason(error)}") from None
    click.echo(f"The database is up to date ({len(missing)} migrations run).")


def _pending(url: str) -> list[str]:
    engine = make_engine(url, component="medic-migrate")
    try:
        with engine.connect() as connection:
            return pending(connection)
    finally:
        engine.dispose()


def _tell(missing: list[str]) -> None:
    if not missing:
        click.echo("The database is up to date.")
        return
    click.echo(f"{len(missing)} migrations are pending: {', '.join(missing)}. Run `medic migrate`.", err=True)
    raise SystemExit(1)
