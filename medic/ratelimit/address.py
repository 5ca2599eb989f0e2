"""From REDIS_URL to redis-py's connection options."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from redis.connection import UnixDomainSocketConnection, parse_url

from medic.errors import Misconfigured

# The URL is shared with the broker, and may carry options of its transport; these mean the same to both.
_SHARED = frozenset(
    {
        "connection_class", "host", "port", "db", "username", "password", "ssl_cert_reqs", "ssl_ca_certs",
        "ssl_ca_path", "ssl_certfile", "ssl_keyfile", "ssl_check_hostname", "ssl_password",
    }
)  # fmt: skip


def connection_options(url: str, *, name: str = "REDIS_URL") -> dict[str, Any]:
    """Keyword arguments for a redis-py pool.

    :param url: ``redis://``, ``rediss://``, or kombu's form of a Unix socket,
        ``redis+socket:///path?virtual_host=0``.
    :param name: the variable that it comes from.
    :raises Misconfigured: when it cannot be read; without the URL, which holds a password.
    """
    try:
        if url.startswith("redis+socket://"):
            return _socket_options(url)
        given = parse_url(url)  # type: ignore[no-untyped-call]
        # As the resolver does at each connect; there it is no error of the network, but one that nobody expects.
        str(given.get("host", "")).encode("idna")
        options = {name: value for name, value in given.items() if name in _SHARED}
    except ValueError:
        raise Misconfigured(f"{name}: cannot be read; write redis://host:6379/0") from None
    if "ssl_cert_reqs" in options:
        # kombu also takes the names of Python's constants, as CERT_REQUIRED.
        reqs = str(options["ssl_cert_reqs"]).lower().removeprefix("cert_")
        if reqs not in {"none", "optional", "required"}:
            raise Misconfigured(f"{name}: ssl_cert_reqs must be required, optional or none")
        options["ssl_cert_reqs"] = reqs
    return options


def _socket_options(url: str) -> dict[str, Any]:
    parts = urlsplit(url)
    database = parse_qs(parts.query).get("virtual_host", ["0"])[0].strip("/") or "0"
    path = unquote(parts.path)
    if not path.strip("/"):
        raise ValueError("no path")
    options: dict[str, Any] = {
        "connection_class": UnixDomainSocketConnection,
        "path": path,
        "db": int(database),
    }
    if parts.username:
        options["username"] = unquote(parts.username)
    if parts.password:
        options["password"] = unquote(parts.password)
    return options
