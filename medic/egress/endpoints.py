"""Medic's own database and broker, as (host, port) pairs that no playbook may reach.  Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable

from medic.egress.allowlist import AllowList, Endpoint
from medic.settings import Settings

# As SQLAlchemy reads it: a password may hold a slash.
_AUTHORITY = re.compile(r"(?:[^:/]*(?::[^@]*)?@)?([^/?]*)")
_PORTS = {"postgresql": 5432, "redis": 6379, "rediss": 6379}


def allow_list(settings: Settings) -> AllowList:
    """The policy that the settings ask for.

    :raises Misconfigured: when an entry of ``MEDIC_ALLOWED_WEBHOOK_HOSTS`` is wrong.
    """
    secrets = (settings.database_url, settings.redis_url, settings.limiter_redis_url)
    urls = [secret.get_secret_value() for secret in secrets if secret is not None]
    return AllowList.parse(settings.allowed_webhook_hosts, closed=own_endpoints(urls))


def own_endpoints(urls: Iterable[str]) -> frozenset[Endpoint]:
    """The network endpoints in database and Redis URLs; Unix sockets have none.

    Read by hand, because libpq allows several hosts in one URL, which no URL parser does.
    """
    found: set[Endpoint] = set()
    for url in urls:
        scheme, _, rest = url.partition("://")
        default = _PORTS.get(scheme.partition("+")[0])
        if default is None or scheme == "redis+socket":
            continue
        match = _AUTHORITY.match(rest)
        hosts = match[1].rpartition("@")[2] if match else ""
        for part in hosts.split(","):
            host, colon, port = part.rpartition(":")
            if not colon or port.endswith("]"):
                host, port = part, ""
            host = host.removeprefix("[").removesuffix("]").lower()
            if host:
                found.add((host, int(port) if port.isascii() and port.isdigit() else default))
    return frozenset(found)
