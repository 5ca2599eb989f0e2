"""A URL from outside, read once and kept in parts.  Pure.

One parser reads it (urllib3's, the same that builds the request), so that no two parsers can disagree on
the host.  What the host resolves to is judged later, at the connection.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv6Address

from urllib3.exceptions import LocationParseError
from urllib3.util import parse_url

from medic.errors import EgressRefused

MAX_URL = 2_048
_DEFAULT_PORTS = {"http": 80, "https": 443}
_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_NAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*\.?", re.ASCII)
_START = re.compile(r"(https?)://([^/?#]*)", re.ASCII | re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Target:
    """Where a request goes.  ``host`` is lower-case ASCII without brackets; ``path`` holds the query."""

    scheme: str
    host: str
    port: int
    path: str

    @property
    def origin(self) -> tuple[str, str, int]:
        return self.scheme, self.name, self.port

    @property
    def name(self) -> str:
        """The host without the dot of a fully qualified name, as lists and certificates write it."""
        return self.host.rstrip(".")

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if self.port == _DEFAULT_PORTS[self.scheme] else f":{self.port}"
        return f"{self.scheme}://{host}{port}{self.path}"


def parse_target(url: str) -> Target:
    """Read an absolute http or https URL; a fragment is dropped.

    :raises EgressRefused: when it is none, is longer than 2,048 characters, names a user, or holds
        anything that parsers are known to disagree on.
    """
    if len(url) > MAX_URL:
        raise EgressRefused(f"URL is longer than {MAX_URL} characters")
    if any(unicodedata.category(char)[0] in "CZ" for char in url) or "\\" in url:
        raise EgressRefused("URL holds a control character, a space or a backslash")
    start = _START.match(url)
    if start is None:
        raise EgressRefused("URL does not start with http:// or https://")
    if "@" in start[2]:
        raise EgressRefused("URL names a user")
    try:
        parsed = parse_url(url)
    except (LocationParseError, UnicodeError):
        raise EgressRefused("URL cannot be parsed") from None
    scheme = parsed.scheme or ""
    if scheme not in _DEFAULT_PORTS or parsed.auth is not None:
        raise EgressRefused("URL cannot be parsed")
    port = _DEFAULT_PORTS[scheme] if parsed.port is None else parsed.port
    if not 1 <= port <= 65_535:
        raise EgressRefused("URL has an impossible port")
    return Target(scheme, parse_host(parsed.host or ""), port, parsed.request_uri)


def parse_host(text: str) -> str:
    """Read a host name or address: lower-case ASCII, IPv6 in its shortest form without brackets.

    :raises EgressRefused: when it is neither, or carries a zone.
    """
    if text.startswith("[") and text.endswith("]"):
        try:
            address = IPv6Address(text[1:-1])
        except AddressValueError:
            raise EgressRefused("URL has an impossible IPv6 address") from None
        if address.scope_id is not None:
            raise EgressRefused("URL has an IPv6 address with a zone")
        return str(address)
    host = text.lower()
    if len(host) > 254 or _NAME.fullmatch(host) is None:
        raise EgressRefused("URL has no host, or an impossible one")
    return host
