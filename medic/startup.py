"""What can be seen to be wrong before anything is served."""

from __future__ import annotations

import structlog
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError

from medic import vault
from medic.db import in_transaction, is_away
from medic.egress import allow_list
from medic.settings import Settings

log = structlog.get_logger("medic.startup")


def check(settings: Settings, engine: Engine) -> None:
    """Check what the API needs.  A database that is away is no reason not to start.

    :raises Misconfigured: saying which setting is wrong.
    """
    settings.need_redis_url()
    settings.need_pepper()
    allow_list(settings)
    if settings.secrets_key is None:
        return
    ring = vault.key_ring(settings)
    try:
        in_transaction(engine, lambda session: vault.check_key(session, ring))
    except DBAPIError as error:
        # Away, or not migrated yet: readiness says so, and setting a secret checks the key again.
        log.warning("startup.key_unchecked", away=is_away(error))
