"""Where a redirect leads, and what goes along (RFC 9110 §15.4).  Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from urllib.parse import urljoin

from medic.egress.headers import bodiless_headers, cross_origin_headers
from medic.egress.urls import Target, parse_target
from medic.errors import EgressRefused

STATUSES = frozenset({301, 302, 303, 307, 308})


@dataclass(frozen=True, slots=True)
class Hop:
    """One request of a call.  Header names are in lower case."""

    method: str
    target: Target
    headers: Mapping[str, str]
    body: bytes | None


def next_hop(hop: Hop, status: int, location: str) -> Hop:
    """The request that a redirect asks for.

    303 turns every method but HEAD into GET; 301 and 302 do so for POST, as clients always did; 307 and 308
    repeat the request.  Another origin gets none of the caller's headers that could hold a secret.

    :raises EgressRefused: when the location is no URL of ours, or leaves https for http.
    """
    try:
        target = parse_target(urljoin(hop.target.url, _as_text(location)))
    except ValueError:
        raise EgressRefused("redirect to a URL that cannot be parsed") from None
    if hop.target.scheme == "https" and target.scheme == "http":
        raise EgressRefused(f"{target.name} port {target.port}: redirect from https to http")
    following = replace(hop, target=target)
    if (status == 303 and hop.method != "HEAD") or (status in {301, 302} and hop.method == "POST"):
        following = replace(following, method="GET", body=None, headers=bodiless_headers(hop.headers))
    if target.origin != hop.target.origin:
        following = replace(following, headers=cross_origin_headers(following.headers))
    return following


def _as_text(location: str) -> str:
    """Header fields arrive as Latin-1; a location beyond ASCII is UTF-8 in practice."""
    return location if location.isascii() else location.encode("latin-1").decode("utf-8")
