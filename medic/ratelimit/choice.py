"""Which limiter this process gets: MEDIC_RATE_LIMITER_TYPE with REDIS_URL."""

from __future__ import annotations

import os
import threading

import structlog

from medic.errors import Misconfigured
from medic.ratelimit.limiter import Limiter
from medic.ratelimit.policy import policies_from
from medic.ratelimit.redis_store import RedisStore
from medic.settings import Settings

log: structlog.typing.FilteringBoundLogger = structlog.get_logger(__name__)

TYPES = frozenset({"redis", "memory", "auto"})

_lock = threading.Lock()
_chosen: dict[Settings, Limiter] = {}


def limiter_from(settings: Settings) -> Limiter:
    """This process's limiter: the same settings always give the same instance.

    The type, in any case: ``redis`` (needs a URL), ``memory`` (ignores it), ``auto`` (Redis if there is a
    URL, else memory); anything else is a WARNING and means memory.  Redis is not asked here: when it does
    not answer later, the limiter limits within the process until it does.

    :raises Misconfigured: ``redis`` without REDIS_URL, or a URL that cannot be used.
    """
    with _lock:
        limiter = _chosen.get(settings)
        if limiter is None:
            limiter = _chosen[settings] = build(settings)
        return limiter


def build(settings: Settings) -> Limiter:
    """A new limiter, with one INFO line that names the choice; see `limiter_from`."""
    asked = settings.rate_limiter_type.strip().lower()
    if asked not in TYPES:
        log.warning(
            "ratelimit.unknown_type",
            message="MEDIC_RATE_LIMITER_TYPE must be auto, redis or memory; memory is used.",
        )
        asked = "memory"
    limiter = Limiter(policies_from(settings), _store(settings))
    log.info("ratelimit.chosen", backend=limiter.backend, asked=asked)
    return limiter


def check(settings: Settings) -> None:
    """Look whether a limiter can be made, without a word in the log and without asking Redis.

    :raises Misconfigured: as `limiter_from`.
    """
    store = _store(settings)
    if store is not None:
        store.close()


def _store(settings: Settings) -> RedisStore | None:
    asked = settings.rate_limiter_type.strip().lower()
    url = settings.limiter_redis_url or settings.redis_url
    if asked == "redis" and url is None:
        raise Misconfigured("MEDIC_RATE_LIMITER_TYPE is redis: set REDIS_URL too, or choose auto or memory.")
    if url is None or asked not in {"redis", "auto"}:
        return None
    name = "REDIS_URL" if settings.limiter_redis_url is None else "MEDIC_LIMITER_REDIS_URL"
    return RedisStore.at(url.get_secret_value(), pool_size=settings.redis_pool_size, name=name)


def _renew_lock() -> None:
    global _lock  # noqa: PLW0603 - a lock held by another thread at the fork would stay held in the child
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_renew_lock)
