"""Connections that judge where they go: resolve once, judge every answer, connect to what was judged.

urllib3's connections are kept and only `_new_conn` is replaced.  Since a connection's host stays the name,
SNI, the certificate check and ``Host`` need no care of ours.  `_new_conn` is no public name of urllib3;
a test fails when it is not called any more.
"""

from __future__ import annotations

import http.client
import logging
import socket
from collections.abc import Callable
from typing import Any

from urllib3.connection import HTTPConnection, HTTPSConnection

from medic.egress.addresses import Address
from medic.egress.allowlist import AllowList
from medic.egress.lookup import Resolver, Unresolved, resolve
from medic.egress.watchdog import BrokenOff, Watchdog
from medic.errors import EgressRefused

_log = logging.getLogger("medic.egress")

MAX_HEADER_BYTES = 65_536


class HeadersTooLarge(http.client.HTTPException):
    """The status line and header fields are longer than 64 KiB."""


class HeadersMalformed(http.client.HTTPException):
    """A line between the header fields is none, so nobody knows where the body starts."""


class Exchange:
    """What one request needs below urllib3, over all of its hops.

    ``sent`` is false only while it is certain that no byte of the request left.
    """

    def __init__(
        self,
        allow: AllowList,
        resolver: Resolver,
        watchdog: Watchdog,
        before_send: Callable[[], None] | None = None,
    ) -> None:
        self._allow = allow
        self._resolver = resolver
        self.before_send = before_send
        self.watchdog = watchdog
        self.sent = False

    def judge(self, dns_host: str, port: int) -> tuple[Address, ...]:
        """Resolve a host and judge every answer; one that may not be reached refuses them all.

        :raises EgressRefused: before anything is opened.
        :raises Unresolved: when the name has no address.
        """
        host = dns_host.rstrip(".")
        if reason := self._allow.refuse_host(host, port):
            raise EgressRefused(f"{host} port {port}: {reason}")
        addresses = resolve(self._resolver, dns_host, port, self.watchdog)
        closed = self._closed(port)
        for address in addresses:
            if reason := self._allow.refuse_address(host, port, address, closed=closed):
                raise EgressRefused(f"{host} port {port} is {address}: {reason}")
        return addresses

    def open(self, dns_host: str, port: int) -> socket.socket:
        """A connected socket to an address that was judged, guarded by the watchdog."""
        addresses = self.judge(dns_host, port)
        failure: OSError | None = None
        for place, address in enumerate(addresses):
            self.watchdog.check()
            family = socket.AF_INET if address.version == 4 else socket.AF_INET6
            try:
                sock = socket.socket(family, socket.SOCK_STREAM)
            except OSError as error:  # a system without IPv6
                failure = error
                continue
            try:
                self.watchdog.guard(sock)
                # An address that swallows packets leaves time for the ones after it.
                sock.settimeout(self.watchdog.remaining / (len(addresses) - place))
                sock.connect((str(address), port))
                self.watchdog.check()
                sock.settimeout(self.watchdog.remaining)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            except OSError as error:
                failure = error
                sock.close()
            except BrokenOff:
                sock.close()
                raise
            else:
                _log.debug("connected to %s port %d at %s", dns_host, port, address)
                return sock
        self.watchdog.check()
        raise failure or OSError("no address")

    def _closed(self, port: int) -> frozenset[Address]:
        found: set[Address] = set()
        for host in self._allow.closed_hosts(port):
            try:
                found.update(resolve(self._resolver, host, port, self.watchdog))
            except Unresolved:
                continue  # what has no address now cannot be reached either
        return frozenset(found)


class BoundedResponse(http.client.HTTPResponse):
    """A response whose header block is bounded and whole.

    The standard library bounds one line (64 KiB) and the number of fields (100), not their sum, nor the
    informational responses before the final one.
    """

    def begin(self) -> None:
        whole: Any = self.fp
        budget: Any = _Budget(whole)
        self.fp = budget
        try:
            super().begin()
        finally:
            if self.fp is budget:  # begin() lets go of it when there is no body
                self.fp = whole
        payload = self.headers.get_payload()
        defects = [each for each in self.headers.defects if type(each).__name__ not in _HARMLESS]
        if defects or (isinstance(payload, str) and payload):
            raise HeadersMalformed("malformed header field")

    def _read_status(self) -> tuple[str, int, str]:
        """Skip informational responses (RFC 9110 §15.2); the standard library skips only 100."""
        while True:
            version, status, reason = super()._read_status()  # type: ignore[misc]
            if not 101 < status < 200:
                return version, status, reason
            http.client.parse_headers(self.fp)


_HARMLESS = frozenset({"StartBoundaryNotFoundDefect", "MultipartInvariantViolationDefect"})
"""What the mail parser says of any multipart body that it was not given."""


class _Budget:
    """The reader of a header block; refuses to read more than its share."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self._left = MAX_HEADER_BYTES

    def readline(self, limit: int = -1) -> bytes:
        line: bytes = self._inner.readline(min(limit, self._left + 1) if limit >= 0 else self._left + 1)
        self._left -= len(line)
        if self._left < 0:
            raise HeadersTooLarge
        return line

    def close(self) -> None:
        self._inner.close()


class _Judged:
    """Mixed into a urllib3 connection: its sockets come from the exchange."""

    exchange: Exchange
    port: int
    _dns_host: str
    response_class: type[http.client.HTTPResponse] = BoundedResponse

    def _new_conn(self) -> socket.socket:
        return self.exchange.open(self._dns_host, self.port)


class JudgedHTTPConnection(_Judged, HTTPConnection):
    """http."""


class JudgedHTTPSConnection(_Judged, HTTPSConnection):
    """https."""
