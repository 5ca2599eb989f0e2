"""What `medic doctor` asks the broker."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import redis

from medic.cli.findings import Finding
from medic.errors import MedicError
from medic.ratelimit.address import connection_options
from medic.settings import Settings

TIMEOUT_S = 3.0


def check_redis(settings: Settings) -> Iterator[Finding]:
    """The broker: reachable, of which version, and whether it keeps what it is given."""
    if settings.redis_url is None:
        yield Finding("redis", "fail", "none is set: REDIS_URL, or `medic up`")
    else:
        yield from _redis("redis", settings.redis_url.get_secret_value(), keeps_messages=True)
    if settings.limiter_redis_url is not None:
        yield from _redis(
            "redis of the limiter", settings.limiter_redis_url.get_secret_value(), keeps_messages=False
        )


def _redis(name: str, url: str, *, keeps_messages: bool) -> Iterator[Finding]:
    try:
        options = connection_options(url)
        connection_class = options.pop("connection_class", redis.Connection)
        pool = redis.ConnectionPool(
            connection_class=connection_class,
            socket_timeout=TIMEOUT_S,
            socket_connect_timeout=TIMEOUT_S,
            **options,
        )
        client = redis.Redis(connection_pool=pool)
        try:
            info: dict[str, Any] = client.info()
        finally:
            client.close()
            pool.disconnect()
    except MedicError as error:
        yield Finding(name, "fail", str(error))
    except (redis.RedisError, OSError, TypeError) as error:
        yield Finding(
            name, "fail", f"cannot be used: {str(error).splitlines()[0] if str(error) else 'no answer'}"
        )
    else:
        server = "Valkey" if "valkey_version" in info else "Redis"
        version = info.get("valkey_version", info.get("redis_version", "of unknown version"))
        yield Finding(name, "ok", f"{server} {version}")
        if keeps_messages:
            yield from _memory(name, info)


def _memory(name: str, info: dict[str, Any]) -> Iterator[Finding]:
    policy = str(info.get("maxmemory_policy", "noeviction"))
    if int(info.get("maxmemory", 0)) and policy != "noeviction":
        yield Finding(name, "warn", f"maxmemory-policy is {policy}: it drops messages when memory is short; "
                      "set noeviction")  # fmt: skip
    if not int(info.get("aof_enabled", 0)):
        yield Finding(
            name, "warn", "no append-only file: a restart forgets the queue; nothing is lost, but late"
        )
