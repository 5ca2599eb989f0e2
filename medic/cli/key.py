"""`medic key`: who may call Medic."""

from __future__ import annotations

import getpass
import os
from datetime import timedelta
from pathlib import Path
from typing import Any

import click
from pydantic import SecretStr

from medic.cli.client import part
from medic.cli.local_environ import local_environ
from medic.cli.remote import Remote, connected, limited
from medic.errors import Forbidden, Invalid, MedicError, Misconfigured, Unauthenticated, Unavailable
from medic.settings import Settings
from medic.times import format_duration, format_time, parse_duration

COLUMNS = (
    ("ID", "id"),
    ("NAME", "name"),
    ("SCOPES", "scopes"),
    ("SERVICES", "service_patterns"),
    ("CREATED", "created_at"),
    ("EXPIRES", "expires_at"),
    ("USED", "last_used_at"),
    ("REVOKED", "revoked_at"),
)


@click.group()
def key() -> None:
    """Make, list, rotate and revoke API keys."""


@key.command("create")
@click.option("--admin", is_flag=True, help="It may do everything.")
@click.option("--scope", "scopes", multiple=True, help="What it may do; may be given several times.")
@click.option("--name", help="Whose it is, or what for.")
@click.option("--service-pattern", "patterns", multiple=True, help="Only for services like this, as 'db-*'.")
@click.option("--expires-in", help="It ends after this time, as 90d.")
@connected
def create_key(
    remote: Remote, admin: bool, scopes: tuple[str, ...], name: str | None, patterns: tuple[str, ...],
    expires_in: str | None,
) -> None:  # fmt: skip
    """Make an API key and print it, this once.

    With --admin and no API key that the server takes, it is written to the database itself, which the
    settings must name (MEDIC_DATABASE_URL, MEDIC_API_KEY_PEPPER): so a lost admin key is replaced.
    """
    if admin == bool(scopes):
        raise click.UsageError("Say what it may do: --admin, or --scope once or more.")
    if admin and patterns:
        raise click.UsageError("An admin key is for every service: leave --service-pattern out.")
    lifetime = _lifetime(expires_in)
    title = name or ("admin" if admin else "key")
    try:
        made = _over_api(remote, title, ["admin"] if admin else list(scopes), patterns, lifetime)
    except (Unauthenticated, Forbidden, Unavailable, Misconfigured) as refused:
        if not admin:
            raise
        made = _in_database(remote.data_dir, title, lifetime, refused)
    _show_new(remote, made, f"Key {made['id']} ({title}) is made")


@key.command("list")
@limited
@connected
def list_keys(remote: Remote, limit: int) -> None:
    """List API keys, without their texts."""
    remote.show_items(remote.client.items("/v1/keys", limit=limit), COLUMNS, empty="No keys.")


@key.command("rotate")
@click.argument("key_id", metavar="ID")
@click.option("--overlap", default="24h", show_default=True, help="How long both keys work, 30d at the most.")
@click.option(
    "--expires-in",
    help="The new key ends after this time; else it lasts as long as the old one was made for.",
)
@connected
def rotate_key(remote: Remote, key_id: str, overlap: str, expires_in: str | None) -> None:
    """Replace an API key by a new one that may do the same, and print that, this once.

    The old key ends after the overlap, or sooner if it would; --overlap 0 ends it at once.
    """
    body = {"overlap": format_duration(parse_duration(overlap, path="--overlap"))}
    if (lifetime := _lifetime(expires_in)) is not None:
        body["expires_in"] = format_duration(lifetime)
    made = remote.client.call("POST", f"/v1/keys/{part(key_id)}/rotate", json=body).body
    _show_new(
        remote, made, f"Key {made['id']} replaces {key_id}, which ends at {made['replaced_expires_at']}"
    )


@key.command("revoke")
@click.argument("key_id", metavar="ID")
@connected
def revoke_key(remote: Remote, key_id: str) -> None:
    """End an API key, within five seconds and for good."""
    remote.client.call("DELETE", f"/v1/keys/{part(key_id)}")
    remote.say(f"Key {key_id} is revoked.", {"id": key_id, "revoked": True})


def _lifetime(text: str | None) -> timedelta | None:
    lifetime = parse_duration(text, path="--expires-in") if text else None
    if lifetime == timedelta(0):
        raise Invalid.at("--expires-in", "is no time at all")
    return lifetime


def _show_new(remote: Remote, made: dict[str, Any], line: str) -> None:
    """Print a new key: only its text goes to standard output."""
    if remote.as_json:
        remote.show(made)
        return
    click.echo(f"{line}; the new key's text is shown this once:", err=True)
    click.echo(made["key"])


def _over_api(
    remote: Remote, name: str, scopes: list[str], patterns: tuple[str, ...], lifetime: timedelta | None
) -> dict[str, Any]:
    body: dict[str, Any] = {"name": name, "scopes": scopes}
    if patterns:
        body["service_patterns"] = list(patterns)
    if lifetime is not None:
        body["expires_in"] = format_duration(lifetime)
    made: dict[str, Any] = remote.client.call("POST", "/v1/keys", json=body).body
    return made


def _in_database(
    data_dir: Path | None, name: str, lifetime: timedelta | None, refused: MedicError
) -> dict[str, Any]:
    """Make an admin key without a key: who reaches the database and knows the pepper could do anything."""
    from sqlalchemy.exc import DBAPIError  # noqa: PLC0415 - the other way needs no database
    from sqlalchemy.orm import Session  # noqa: PLC0415 - see above

    from medic import audit  # noqa: PLC0415 - see above
    from medic.access import create_key as make_key  # noqa: PLC0415 - see above
    from medic.cli.checks import database_reason  # noqa: PLC0415 - see above
    from medic.db import database_now, in_transaction, make_engine  # noqa: PLC0415 - see above

    settings = Settings.from_env(local_environ(os.environ, data_dir or Path(".medic")))
    if settings.database_url is None:
        raise refused
    pepper = settings.need_pepper()
    engine = make_engine(settings.database_url.get_secret_value(), component="medic-key")

    def make(session: Session) -> tuple[str, SecretStr, str | None]:
        now = database_now(session)
        ends = now + lifetime if lifetime is not None else None
        actor = audit.Actor("shell", user_name())
        made = make_key(
            session, name=name, scopes=["admin"], pepper=pepper, actor=actor, now=now, expires_at=ends
        )
        return *made, format_time(ends) if ends else None

    try:
        key_id, text, ends = in_transaction(engine, make)
    except DBAPIError as error:
        raise Unavailable(f"The database cannot be used: {database_reason(error)}") from None
    finally:
        engine.dispose()
    click.echo(f"Over the API it could not be done ({refused}); written to the database itself.", err=True)
    return {
        "id": key_id,
        "name": name,
        "scopes": ["admin"],
        "expires_at": ends,
        "key": text.get_secret_value(),
    }


def user_name() -> str:
    """Who sits at this shell."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return f"uid-{os.getuid()}"
