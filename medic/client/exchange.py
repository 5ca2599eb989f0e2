"""One try to hand a signal to Medic, with a hard limit in time, and what its answer means.

The imports of HTTP and TLS happen in the thread that sends: together they cost more than all the rest of this
package, and the job should not wait for them.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from medic.client.address import Address

if TYPE_CHECKING:
    from email.message import Message

PATH = "/v1/heartbeats"
_MOST_BYTES = 65_536
_UNASKED_WAIT_S = 5.0


class Verdict(Enum):
    """What an answer means for the signal, and for those behind it."""

    STORED = "stored"
    REFUSED = "refused"
    """It will never be taken: unknown service, wrong field."""
    BAD_KEY = "bad key"
    """Nothing will be taken with this key."""
    FORBIDDEN = "forbidden"
    """This key may not do this; it may do other things."""
    BROKEN = "broken"
    """A mistake on Medic's side, perhaps with this signal only."""
    AWAY = "away"
    """No answer, none of Medic's, or "not now": nothing else will fare better."""


@dataclass(frozen=True, slots=True)
class Answer:
    """``retry_after``: seconds, as far as Medic said; ``status``: None when no answer came."""

    verdict: Verdict
    text: str
    status: int | None = None
    retry_after: float | None = None


def post(address: Address, body: Mapping[str, Any], *, within: float) -> Answer:
    """Send one signal; returns in ``within`` seconds, whatever the network does.

    A name server or an answer that comes byte by byte is under no socket timeout, so that the exchange has a
    thread of its own.  One that is given up may still arrive: the signal's ``id`` makes that harmless.
    """
    found: list[Answer] = []
    thread = threading.Thread(
        target=lambda: found.append(_exchange(address, body, within)), name="medic-exchange", daemon=True
    )
    try:
        thread.start()
    except RuntimeError:  # no more threads here
        return _exchange(address, body, within)
    thread.join(within)
    return found[0] if found else Answer(Verdict.AWAY, f"did not answer within {within:.3g} s")


def load() -> None:
    """Import what an exchange needs, in the caller's thread.

    A thread that is importing when the program forks leaves the module locked in the child, for good.
    """
    import encodings.idna  # noqa: F401, PLC0415 - looking up a name loads it
    import urllib.request  # noqa: F401, PLC0415


def _exchange(address: Address, body: Mapping[str, Any], timeout: float) -> Answer:
    import urllib.error  # noqa: PLC0415 - see the module's docstring
    import urllib.request  # noqa: PLC0415

    class StaysHere(urllib.request.HTTPRedirectHandler):
        """A redirect would carry the key to another place."""

        def redirect_request(self, *_: object) -> None:
            return None

    headers = {"Content-Type": "application/json", "Accept": "application/json", "User-Agent": "medic-client"}
    if address.key:
        headers["Authorization"] = f"Bearer {address.key}"
    # A proxy of the network cannot reach our own loopback; elsewhere the environment's is right.
    handlers = [StaysHere(), *([urllib.request.ProxyHandler({})] if _is_loopback(address.url) else [])]
    try:
        request = urllib.request.Request(  # noqa: S310 - the address is checked: http or https
            address.url + PATH, json.dumps(body).encode(), headers, method="POST"
        )
        try:
            with urllib.request.build_opener(*handlers).open(request, timeout=timeout) as reply:
                return read_answer(reply.status, reply.headers, reply.read(_MOST_BYTES))
        except urllib.error.HTTPError as error:
            with error:
                return read_answer(error.code, error.headers, error.read(_MOST_BYTES))
    except Exception as error:  # noqa: BLE001 - whatever a strange server makes of the standard library
        return Answer(Verdict.AWAY, f"cannot be reached ({_reason(error)})")


def read_answer(status: int, headers: Message, content: bytes) -> Answer:
    """What an answer means.

    Only JSON is Medic's: a login page or an ingress without a backend answers 200 and 404 too, and would
    otherwise empty the spool.
    """
    try:
        body = json.loads(content)
    except ValueError:
        body = None
    if not isinstance(body, dict):
        return Answer(Verdict.AWAY, f"answers {status}, but not as Medic does", status)
    text = str(body.get("detail") or body.get("title") or f"answered {status}")
    for problem in body.get("problems") or ():
        if isinstance(problem, dict):
            text += f" {problem.get('path', '')}: {problem.get('message', '')};"
    text = text.rstrip(";")
    if 200 <= status < 300:
        return Answer(Verdict.STORED, text, status)
    if status in {408, 425, 429, 502, 503, 504} or status < 400:
        waits = headers.get("Retry-After", "").strip()
        wait = float(waits) if waits.isascii() and waits.isdigit() else _UNASKED_WAIT_S
        return Answer(Verdict.AWAY, f"cannot take it now ({status})", status, min(wait, 3600.0))
    if status >= 500:
        return Answer(Verdict.BROKEN, f"answered {status}", status)
    verdict = {401: Verdict.BAD_KEY, 403: Verdict.FORBIDDEN}.get(status, Verdict.REFUSED)
    return Answer(verdict, text, status)


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    return host == "localhost" or host.endswith(".localhost") or host == "::1" or host.startswith("127.")


def _reason(error: Exception) -> str:
    """Why, in the system's words; never an exception's own text, which may quote a header with the key."""
    inner = getattr(error, "reason", error)
    if isinstance(inner, TimeoutError):
        return "no answer in time"
    if verified := getattr(inner, "verify_message", ""):
        return str(verified)
    if isinstance(inner, OSError) and inner.strerror:
        return inner.strerror
    return type(inner).__name__ if isinstance(inner, Exception) else type(error).__name__
