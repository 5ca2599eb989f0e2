"""What can go wrong below, as the one error that callers see."""

from __future__ import annotations

import http.client
import ssl
from collections.abc import Iterator
from contextlib import contextmanager

from urllib3.exceptions import HTTPError, ReadTimeoutError
from urllib3.exceptions import SSLError as UrllibSSLError
from urllib3.util.ssl_match_hostname import CertificateError

from medic.egress.connection import Exchange, HeadersTooLarge
from medic.egress.lookup import Unresolved
from medic.egress.watchdog import BrokenOff
from medic.errors import EgressFailed

_TOO_LATE = {
    "timeout": "No whole answer came in time",
    "cancelled": "The request was cancelled",
}


@contextmanager
def failures(exchange: Exchange, *, connecting: bool = False) -> Iterator[None]:
    """Run a part of an exchange.

    The watchdog is asked at the end, whatever the part says: after a break-off, a cut answer may look whole,
    and any error is only its consequence.

    :raises EgressFailed: in place of the errors of sockets, TLS, HTTP and the watchdog; others pass.
    """
    try:
        exchange.watchdog.check()
        yield
        exchange.watchdog.check()
    except (BrokenOff, Unresolved, OSError, http.client.HTTPException, HTTPError, CertificateError) as error:
        cause = _break_off(exchange) or error
        kind, message = _describe(cause, connecting=connecting)
        raise EgressFailed(message, kind=kind, sent=exchange.sent) from cause


def _break_off(exchange: Exchange) -> BrokenOff | None:
    try:
        exchange.watchdog.check()
    except BrokenOff as late:
        return late
    return None


def _describe(error: Exception, *, connecting: bool) -> tuple[str, str]:
    """Kind and message.  The message tells what this machine saw, never what was sent."""
    if isinstance(error, BrokenOff):
        return error.verdict, _TOO_LATE[error.verdict]
    if isinstance(error, TimeoutError | ReadTimeoutError):
        return "timeout", _TOO_LATE["timeout"]
    if isinstance(error, Unresolved):
        return "connect", "The host name does not resolve"
    if isinstance(error, ssl.SSLCertVerificationError):
        return "tls", f"The certificate is not valid: {error.verify_message.rstrip('.')}"
    if isinstance(error, ssl.SSLError | UrllibSSLError | CertificateError):
        return "tls", "The TLS connection failed"
    if isinstance(error, HeadersTooLarge | http.client.LineTooLong) or type(error) is _TOO_MANY_FIELDS:
        return "too_large", "The header of the answer is too large"
    if connecting and isinstance(error, OSError):
        return "connect", f"No connection: {error.strerror or 'unreachable'}"
    return "protocol", "The answer broke off, or was no HTTP"


_TOO_MANY_FIELDS = http.client.HTTPException
"""The standard library says "more than 100 headers" with the base class itself, and nothing else so."""
