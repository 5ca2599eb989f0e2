"""Names to addresses, within a deadline.

`getaddrinfo` knows no timeout and cannot be interrupted, so it runs in a thread of its own that is left
behind when the deadline comes first.  The number of such threads is bounded.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Sequence
from ipaddress import ip_address

from medic.egress.addresses import Address
from medic.egress.watchdog import Watchdog

Resolver = Callable[[str, int], Sequence[str]]
"""(host, port) to addresses as text.  Raises OSError when there are none."""

MAX_LOOKUPS = 64
_slots = threading.BoundedSemaphore(MAX_LOOKUPS)


class Unresolved(Exception):
    """The name has no address, or the resolver could not tell."""


def system_resolver(host: str, port: int) -> Sequence[str]:
    """Ask the system, as every program on it would."""
    return _ask(host, port, 0)


def literal_addresses(host: str) -> tuple[Address, ...]:
    """The addresses of a host that is written as a number in any form that the system reads; else none."""
    try:
        return _parse(_ask(host, 0, socket.AI_NUMERICHOST))
    except OSError:
        return ()


def resolve(resolver: Resolver, host: str, port: int, watchdog: Watchdog) -> tuple[Address, ...]:
    """Resolve once.  Every answer, in the resolver's order, each once.

    :raises Unresolved: when there is no answer, or one that is no address.
    :raises BrokenOff: when the deadline comes first.
    """
    if not _slots.acquire(timeout=watchdog.remaining):
        watchdog.check()
        raise Unresolved("too many lookups hang")
    lookup = _Lookup(resolver, host, port)
    try:
        threading.Thread(target=lookup.run, name="medic-egress-lookup", daemon=True).start()
    except RuntimeError:
        _slots.release()
        raise Unresolved("no thread for the lookup") from None
    watchdog.wait(lookup.done)
    if lookup.error is not None:
        raise Unresolved("name does not resolve") from lookup.error
    try:
        addresses = _parse(lookup.answers)
    except ValueError as error:
        raise Unresolved("answer is no address") from error
    if not addresses:
        raise Unresolved("name has no address")
    return addresses


class _Lookup:
    def __init__(self, resolver: Resolver, host: str, port: int) -> None:
        self._resolver, self._host, self._port = resolver, host, port
        self.done = threading.Event()
        self.answers: Sequence[str] = ()
        self.error: Exception | None = None

    def run(self) -> None:
        try:
            self.answers = self._resolver(self._host, self._port)
        except Exception as error:  # noqa: BLE001  whatever it is belongs to the thread that waits
            self.error = error
        finally:
            _slots.release()
            self.done.set()


def _ask(host: str, port: int, flags: int) -> Sequence[str]:
    # Bytes, because text would pass through Python's IDNA codec, which folds characters and raises.
    found = socket.getaddrinfo(host.encode("ascii"), port, type=socket.SOCK_STREAM, flags=flags)
    return [str(address[0]) for *_, address in found]


def _parse(answers: Sequence[str]) -> tuple[Address, ...]:
    return tuple(dict.fromkeys(ip_address(answer) for answer in answers))
