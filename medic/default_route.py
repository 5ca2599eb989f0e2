"""The default route of the settings: SLACK_API_TOKEN with SLACK_CHANNEL_ID, and PAGERDUTY_ROUTING_KEY.

Each process of the API sees to it when it starts, and no other does, so that a deployment has one place to set them.
It is idempotent: what is as the settings say is left alone.
"""

from __future__ import annotations

import threading
from datetime import datetime
from typing import Final

import structlog
from pydantic import SecretStr
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import Session

from medic import audit, route_store, target_store, vault
from medic.db import advisory_lock, database_now, in_transaction
from medic.errors import Invalid, MedicError, Misconfigured
from medic.settings import Settings
from medic.target_store import OpenRing, Wish
from medic.targets import KINDS

AGAIN_S: Final = 5.0
"""How long after a try that found no database the next one is."""

log = structlog.get_logger("medic.startup")


def check(settings: Settings) -> None:
    """What the settings say makes targets.

    :raises Misconfigured: naming the setting that is wrong or missing.
    """
    if (settings.slack_api_token is None) != (settings.slack_channel_id is None):
        missing, given = ("SLACK_API_TOKEN", "SLACK_CHANNEL_ID")
        if settings.slack_api_token is not None:
            missing, given = given, missing
        raise Misconfigured(
            f"{missing}: must be set beside {given}; together they make the default Slack target."
        )
    for name, wish in wishes(settings).items():
        if wish is None:
            continue
        where = target_store.FROM_SETTINGS[name]
        if settings.secrets_key is None:
            raise Misconfigured(f"MEDIC_SECRETS_KEY: must be set, to keep {where}.")
        try:
            KINDS[wish.kind].parse(wish.config, _plain(wish))
        except Invalid as error:
            raise Misconfigured(f"{where}: {error.message}") from None


def ensure_default_route(session: Session, settings: Settings, open_ring: OpenRing, *, now: datetime) -> None:
    """Make the targets and the route what the settings say.  Nothing that people made is changed."""
    advisory_lock(session, "routes")  # first, as whoever changes a route takes it before a target
    wanted = wishes(settings)
    for name, wish in wanted.items():
        target_store.keep_from_settings(session, open_ring, name=name, wish=wish, actor=audit.MEDIC, now=now)
    set_ones = [name for name, wish in wanted.items() if wish is not None]
    route_store.keep_from_settings(session, set_ones, actor=audit.MEDIC, now=now)


def wishes(settings: Settings) -> dict[str, Wish | None]:
    """The targets of the settings; None for what is not set."""
    slack = pagerduty = None
    if settings.slack_api_token is not None and settings.slack_channel_id is not None:
        slack = Wish("slack", {"channel": settings.slack_channel_id}, {"token": settings.slack_api_token})
    if settings.pagerduty_routing_key is not None:
        pagerduty = Wish("pagerduty", {}, {"routing_key": settings.pagerduty_routing_key})
    return {"slack-default": slack, "pagerduty-default": pagerduty}


def keep_default_route(settings: Settings, engine: Engine) -> None:
    """At a process's start: now, or from a thread of its own as soon as there is a database."""
    if not _try(settings, engine):
        threading.Thread(
            target=_go_on, args=(settings, engine), name="medic-default-route", daemon=True
        ).start()


def _go_on(settings: Settings, engine: Engine) -> None:
    pause = threading.Event()
    while True:
        pause.wait(AGAIN_S)
        if _try(settings, engine):
            return


def _try(settings: Settings, engine: Engine) -> bool:
    def work(session: Session) -> None:
        ensure_default_route(session, settings, lambda: vault.key_ring(settings), now=database_now(session))

    try:
        in_transaction(engine, work)
    except (DBAPIError, PoolTimeout) as error:
        # Away, or not migrated yet.
        log.warning("default_route.not_kept", error=type(error).__name__)
        return False
    except MedicError as error:
        log.error("default_route.not_kept", error=error.message)  # noqa: TRY400 - the text says it all
    return True


def _plain(wish: Wish) -> dict[str, str]:
    return {
        name: value.get_secret_value() for name, value in wish.secrets.items() if isinstance(value, SecretStr)
    }
