"""The one client for every request to an address that a user gave.

It resolves once, judges every answer and connects to what it judged, so that neither DNS rebinding nor an
odd spelling of an address gets past it.  It reads no proxy, netrc or cookie of the environment, never
retries, never shares a connection between calls, and ends at its deadline whatever the other side does.
"""

from __future__ import annotations

import contextlib
import logging
import math
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from urllib3.response import BaseHTTPResponse

from medic import __version__
from medic.egress.allowlist import AllowList
from medic.egress.connection import Exchange, JudgedHTTPConnection, JudgedHTTPSConnection
from medic.egress.failures import failures
from medic.egress.headers import clean_headers, clean_method
from medic.egress.lookup import Resolver, system_resolver
from medic.egress.redirects import STATUSES, Hop, next_hop
from medic.egress.tls import check_ca_file, tls_context
from medic.egress.urls import parse_target
from medic.egress.watchdog import Watchdog
from medic.errors import EgressRefused

_log = logging.getLogger("medic.egress")

MAX_REDIRECTS = 3
MAX_BODY_READ = 1 << 20
_CHUNK = 16_384


@dataclass(frozen=True, slots=True)
class Response:
    """The final answer.  ``elapsed`` is in seconds; ``url`` is the last hop's and may hold secrets.

    Header names are in lower case, repeated fields joined by a comma.  ``body`` is decoded and cut at the
    caller's ``max_body``; ``truncated`` tells that there was more.
    """

    status: int
    headers: dict[str, str] = field(repr=False)
    body: bytes = field(repr=False)
    truncated: bool
    elapsed: float
    url: str = field(repr=False)


class SafeClient:
    """Safe to share between threads.

    :param allow: what may be reached.
    :param ca_file: certificates in PEM that are trusted besides the system's.
    :param resolver: (host, port) to addresses; the system's by default.
    """

    def __init__(
        self,
        allow: AllowList,
        *,
        ca_file: str | Path | None = None,
        resolver: Resolver = system_resolver,
    ) -> None:
        self._allow = allow
        self._ca_file = check_ca_file(ca_file)
        self._resolver = resolver
        self._contexts = threading.local()

    def request(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        timeout: float,
        max_body: int = 65_536,
        redirects: int = 0,
        cancelled: Callable[[], bool] | None = None,
        before_send: Callable[[], None] | None = None,
    ) -> Response:
        """Send one request and read its answer, any status included.

        :param timeout: seconds for everything: name resolution, connection, redirects and body.
        :param max_body: bytes of the body to keep; up to 1 MiB is read, so that a handler that works
            while it writes is not cut off by a reset.
        :param redirects: how many to follow, at most 3; the one after that, and one that names no single place,
            is returned as it is.
        :param cancelled: asked ten times a second from another thread; true ends the exchange.
        :param before_send: called right before the first byte of each hop leaves, after the TLS handshake.
            When it raises, nothing of that hop was sent, and its exception is what the caller gets.
        :raises EgressRefused: when the URL, a header or an address is not allowed.  On the first hop
            nothing was opened; each hop of a redirect is judged anew.
        :raises EgressFailed: when no whole answer came; ``kind`` is ``cancelled`` when ``cancelled`` said so.
        """
        if not (math.isfinite(timeout) and timeout > 0):
            raise ValueError("timeout: must be a number of seconds above 0")
        if not 0 <= max_body <= MAX_BODY_READ:
            raise ValueError(f"max_body: must be between 0 and {MAX_BODY_READ}")
        if not 0 <= redirects <= MAX_REDIRECTS:
            raise ValueError(f"redirects: must be between 0 and {MAX_REDIRECTS}")
        started = time.monotonic()
        with Watchdog(timeout, cancelled) as watchdog:
            exchange = Exchange(self._allow, self._resolver, watchdog, before_send)
            try:
                ours = {"accept": "*/*", "accept-encoding": "identity", "user-agent": f"Medic/{__version__}"}
                hop = Hop(clean_method(method), parse_target(url), ours | clean_headers(headers or {}), body)
                while True:
                    answer = self._send(exchange, hop, max_body, follow=redirects > 0)
                    if isinstance(answer, Hop):
                        hop, redirects = answer, redirects - 1
                        continue
                    return Response(*answer, elapsed=time.monotonic() - started, url=hop.target.url)
            except EgressRefused as refusal:
                _log.warning("request refused: %s", refusal.reason)
                raise

    def _send(self, exchange: Exchange, hop: Hop, max_body: int, *, follow: bool) -> Hop | _Answer:
        """One hop: its answer, or the hop that it redirects to."""
        connection = self._connection(exchange, hop)
        with contextlib.closing(connection):
            with failures(exchange, connecting=True):
                connection.connect()
            if exchange.before_send is not None:
                exchange.before_send()
            with failures(exchange):
                exchange.sent = True
                connection.timeout = exchange.watchdog.remaining
                # A server may answer and hang up without having read it all; its answer is still there.
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                    connection.request(
                        hop.method,
                        hop.target.path,
                        body=hop.body,
                        headers={**hop.headers, "connection": "close"},
                        preload_content=False,
                    )
                with contextlib.closing(connection.getresponse()) as response:
                    locations = response.headers.getlist("location")
                    if follow and response.status in STATUSES and len(locations) == 1:
                        return next_hop(hop, response.status, locations[0])
                    body, truncated = _read(response, max_body)
                    fields = {name.lower(): value for name, value in response.headers.itermerged()}
                    return _Answer(response.status, fields, body, truncated)

    def _connection(self, exchange: Exchange, hop: Hop) -> JudgedHTTPConnection | JudgedHTTPSConnection:
        target, timeout = hop.target, exchange.watchdog.remaining
        connection: JudgedHTTPConnection | JudgedHTTPSConnection
        if target.scheme == "https":
            connection = JudgedHTTPSConnection(
                target.host, target.port, timeout=timeout, ssl_context=self._context()
            )
        else:
            connection = JudgedHTTPConnection(target.host, target.port, timeout=timeout)
        connection.exchange = exchange
        return connection

    def _context(self) -> ssl.SSLContext:
        """This thread's TLS context: urllib3 writes to a context at each handshake, so none is shared."""
        context: ssl.SSLContext | None = getattr(self._contexts, "tls", None)
        if context is None:
            context = self._contexts.tls = tls_context(self._ca_file)
        return context


class _Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes
    truncated: bool


def _read(response: BaseHTTPResponse, max_body: int) -> tuple[bytes, bool]:
    """Read to the end or to the cap; decoded bytes count."""
    kept = bytearray()
    total = 0
    while total <= MAX_BODY_READ and (chunk := response.read(_CHUNK, decode_content=True)):
        total += len(chunk)
        kept += chunk[: max(max_body - len(kept), 0)]
    return bytes(kept), total > max_body
