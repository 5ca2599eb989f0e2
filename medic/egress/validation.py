"""Judge a URL before it is stored.  Opens no connection.

Without an ``allow`` argument these functions take the process's settings: they are for the edge.
"""

from __future__ import annotations

import logging
from ipaddress import ip_address

from medic.egress.addresses import judge
from medic.egress.allowlist import AllowList
from medic.egress.connection import Exchange
from medic.egress.endpoints import allow_list
from medic.egress.lookup import Resolver, Unresolved, literal_addresses, resolve, system_resolver
from medic.egress.urls import parse_host, parse_target
from medic.egress.watchdog import BrokenOff, Watchdog
from medic.errors import EgressRefused
from medic.settings import current

InvalidURLError = EgressRefused

_log = logging.getLogger("medic.egress")
_PATIENCE = 5.0


def validate_url(
    url: str,
    skip_dns_check: bool = False,
    *,
    allow: AllowList | None = None,
    resolver: Resolver = system_resolver,
    timeout: float = _PATIENCE,
) -> None:
    """Accept a URL, or refuse it.

    :param skip_dns_check: judge the text and a literal address only; nothing is resolved.
    :param timeout: seconds for the name resolution.
    :raises InvalidURLError: with a generic text; the reason is logged.
    """
    policy = allow if allow is not None else allow_list(current())
    try:
        target = parse_target(url)
        if reason := policy.refuse_host(target.name, target.port):
            raise EgressRefused(f"{target.name} port {target.port}: {reason}")
        if skip_dns_check:
            for address in literal_addresses(target.host):
                if reason := policy.refuse_address(target.name, target.port, address):
                    raise EgressRefused(f"{target.name} port {target.port} is {address}: {reason}")
            return
        with Watchdog(timeout) as watchdog:
            try:
                Exchange(policy, resolver, watchdog).judge(target.host, target.port)
            except (Unresolved, BrokenOff):
                raise EgressRefused(f"{target.name}: does not resolve") from None
    except EgressRefused as refusal:
        _log.warning("URL refused: %s", refusal.reason)
        raise


def is_safe_url(url: str, skip_dns_check: bool = False, *, allow: AllowList | None = None) -> bool:
    """Whether `validate_url` accepts the URL."""
    try:
        validate_url(url, skip_dns_check, allow=allow)
    except EgressRefused:
        return False
    return True


def is_private_ip(address: str) -> bool:
    """Whether an address is anything but public; so is a text that is no address."""
    try:
        return judge(ip_address(address)) is not None
    except ValueError:
        return True


def get_allowed_hosts() -> frozenset[str]:
    """The entries of ``MEDIC_ALLOWED_WEBHOOK_HOSTS`` in lower case; none means the public internet."""
    return frozenset(entry.lower() for entry in current().allowed_webhook_hosts)


def resolve_hostname(
    hostname: str, *, resolver: Resolver = system_resolver, timeout: float = _PATIENCE
) -> list[str]:
    """The addresses of a name, within ``timeout`` seconds.

    :raises InvalidURLError: when it is no name, or has no address.
    """
    host = parse_host(hostname)
    with Watchdog(timeout) as watchdog:
        try:
            return [str(address) for address in resolve(resolver, host, 0, watchdog)]
        except (Unresolved, BrokenOff):
            raise EgressRefused(f"{host}: does not resolve") from None
