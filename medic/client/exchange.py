"""One try to hand signals to Medic, with a hard limit in time, and what its answer means.

The imports of HTTP and TLS happen in the thread that sends: together they cost more than all the rest of this
package, and the job should not wait for them.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from medic.client.address import Address

if TYPE_CHECKING:
    from email.message import Message

    Reader = Callable[[int, Message, bytes], "Answer"]

PATH = "/v1/heartbeats"
BATCH_PATH = "/v1/heartbeats/batch"
BATCH_ITEMS = 100
"""Batches up to this size share the way of single signals in Medic."""
BATCH_BYTES = 60_000
"""Nor is a body of this size a large one there."""
_MOST_BYTES = 262_144
"""Of an answer; the longest that is read is a batch's, with some 300 bytes for each signal."""
_UNASKED_WAIT_S = 5.0
_NOT_NOW = frozenset({408, 425, 429, 502, 503, 504})


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
    """``retry_after``: seconds, as far as Medic said; ``status``: None when no answer came.

    ``items`` are the answers to each signal of a batch, in its order; none when it was refused as a whole.
    """

    verdict: Verdict
    text: str
    status: int | None = None
    retry_after: float | None = None
    items: tuple[Answer, ...] = ()


def post(address: Address, body: Mapping[str, Any], *, within: float) -> Answer:
    """Send one signal; returns in ``within`` seconds, whatever the network does."""
    return _bounded(address, PATH, body, read_answer, within)


def post_batch(address: Address, bodies: Sequence[Mapping[str, Any]], *, within: float) -> Answer:
    """Send several signals in one request; as long as `post`."""

    def read(status: int, headers: Message, content: bytes) -> Answer:
        return read_batch_answer(status, headers, content, len(bodies))

    return _bounded(address, BATCH_PATH, list(bodies), read, within)


def _bounded(address: Address, path: str, body: object, read: Reader, within: float) -> Answer:
    """An exchange in a thread of its own.

    A name server or an answer that comes byte by byte is under no socket timeout.  An exchange that is given
    up may still arrive: the signals' ids make that harmless.
    """
    found: list[Answer] = []
    thread = threading.Thread(
        target=lambda: found.append(_exchange(address, path, body, read, within)),
        name="medic-exchange",
        daemon=True,
    )
    try:
        thread.start()
    except RuntimeError:  # no more threads here, or the interpreter is at its end
        return _exchange(address, path, body, read, within)
    thread.join(within)
    return found[0] if found else Answer(Verdict.AWAY, f"did not answer within {within:.3g} s")


def load() -> None:
    """Import what an exchange needs, in the caller's thread.

    A thread that is importing when the program forks leaves the module locked in the child, for good.
    """
    import encodings.idna  # noqa: F401, PLC0415 - looking up a name loads it
    import urllib.request  # noqa: F401, PLC0415


def _exchange(address: Address, path: str, body: object, read: Reader, timeout: float) -> Answer:
    import urllib.error  # noqa: PLC0415 - see the module's docstring
    import urllib.request  # noqa: PLC0415

    class StaysHere(urllib.request.HTTPRedirectHandler):
        """A redirect would carry the key to another place."""

        def redirect_request(self, *_: object) -> None:
            return None

    headers = {"Content-Type": "application/json", "Accept": "application/json", "User-Agent": "medic-client"}
    if address.key:
        headers["Authorization"] = f"Bearer {address.key.reveal()}"
    # A proxy of the network cannot reach our own loopback; elsewhere the environment's is right.
    handlers = [StaysHere(), *([urllib.request.ProxyHandler({})] if _is_loopback(address.url) else [])]
    try:
        request = urllib.request.Request(  # noqa: S310 - the address is checked: http or https
            address.url + path, json.dumps(body).encode(), headers, method="POST"
        )
        try:
            with urllib.request.build_opener(*handlers).open(request, timeout=timeout) as reply:
                return read(reply.status, reply.headers, reply.read(_MOST_BYTES))
        except urllib.error.HTTPError as error:
            with error:
                return read(error.code, error.headers, error.read(_MOST_BYTES))
    except Exception as error:  # noqa: BLE001 - whatever a strange server makes of the standard library
        return Answer(Verdict.AWAY, f"cannot be reached ({_reason(error)})")


def read_answer(status: int, headers: Message, content: bytes) -> Answer:
    """What an answer means.

    Only JSON is Medic's: a login page or an ingress without a backend answers 200 and 404 too, and would
    otherwise empty the spool.
    """
    body = _object(content)
    if body is None:
        return Answer(Verdict.AWAY, f"answers {status}, but not as Medic does", status)
    verdict = _verdict(status)
    if verdict is Verdict.AWAY:
        waits = headers.get("Retry-After", "").strip()
        wait = float(waits) if waits.isascii() and waits.isdigit() else _UNASKED_WAIT_S
        return Answer(verdict, f"cannot take it now ({status})", status, min(wait, 3600.0))
    if verdict is Verdict.BROKEN:
        return Answer(verdict, f"answered {status}", status)
    text = str(body.get("detail") or body.get("title") or f"answered {status}")
    for problem in body.get("problems") or ():
        if isinstance(problem, dict):
            text += f" {problem.get('path', '')}: {problem.get('message', '')};"
    return Answer(verdict, text.rstrip(";"), status)


def read_batch_answer(status: int, headers: Message, content: bytes, count: int) -> Answer:
    """What an answer means for each of ``count`` signals."""
    whole = read_answer(status, headers, content)
    if whole.verdict is not Verdict.STORED:
        return whole
    try:
        items = tuple(_item(item) for item in (_object(content) or {})["items"])
    except (KeyError, TypeError, ValueError):
        items = ()
    if len(items) != count:
        return Answer(Verdict.AWAY, f"answers {status}, but not as Medic does", status)
    return replace(whole, items=items)


def _item(item: Mapping[str, Any]) -> Answer:
    status = int(item["status"])
    verdict = _verdict(status)
    if verdict is Verdict.AWAY:
        return Answer(verdict, f"cannot take it now ({status})", status)
    return Answer(verdict, str(item.get("detail") or f"answered {status}"), status)


def _verdict(status: int) -> Verdict:
    if 200 <= status < 300:
        return Verdict.STORED
    if status < 400 or status in _NOT_NOW:
        return Verdict.AWAY
    if status >= 500:
        return Verdict.BROKEN
    return {401: Verdict.BAD_KEY, 403: Verdict.FORBIDDEN}.get(status, Verdict.REFUSED)


def _object(content: bytes) -> dict[str, Any] | None:
    try:
        body = json.loads(content)
    except (ValueError, RecursionError):
        return None
    return body if isinstance(body, dict) else None


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
