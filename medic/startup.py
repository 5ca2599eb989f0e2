"""What can be seen to be wrong before anything is served."""

from __future__ import annotations

import structlog
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from medic import default_route, hook_store, ratelimit, target_store, vault
from medic.crypto.key_ring import KeyRing
from medic.db import in_transaction, is_away
from medic.egress import allow_list
from medic.sandbox import check_additional_names
from medic.settings import Settings

log = structlog.get_logger("medic.startup")


def check(settings: Settings, engine: Engine) -> None:
    """Check what the API needs.  A database that is away is no reason not to start, and a broker it only hints to.

    :raises Misconfigured: saying which setting is wrong.
    """
    ratelimit.check(settings)
    settings.need_pepper()
    default_route.check(settings)
    check_worker(settings, engine)


def check_worker(settings: Settings, engine: Engine) -> None:
    """Check what workers need, and the API too: who may be called, what scripts may see, and the keys of secrets.

    :raises Misconfigured: saying which setting is wrong.
    """
    allow_list(settings)
    check_additional_names(settings.additional_script_env_vars)
    if settings.secrets_key is None:
        return
    ring = vault.key_ring(settings)
    try:
        in_transaction(engine, lambda session: _check_keys(session, ring))
    except DBAPIError as error:
        # Away, or not migrated yet: readiness says so, and setting a secret checks the key again.
        log.warning("startup.key_unchecked", away=is_away(error))


def _check_keys(session: Session, ring: KeyRing) -> None:
    vault.check_key(session, ring)
    target_store.check_key(session, ring)
    hook_store.check_key(session, ring)
