"""Failed keys by address: whoever guesses is not looked up any more.

Counted in each process; N processes let N times as many through, which at 190 bits changes nothing.  A key
that passed here within a day goes on: behind one address may stand a whole cluster, and a stranger in it
must not silence the rest.  Of an IPv6 address the first 64 bits count, since one host has all the others.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from functools import lru_cache
from hashlib import blake2b
from ipaddress import AddressValueError, IPv6Address

WINDOW_S = 60.0
LIMIT = 30
ADDRESSES = 10_000
TRUST_S = 25 * 3_600.0
"""A daily job's key stays known from one day to the next."""
TRUSTED = 100_000


class Failures:
    """How often an address failed within the window.  Times are a monotonic clock's seconds."""

    def __init__(self) -> None:
        self._seen: OrderedDict[str, tuple[float, int]] = OrderedDict()
        self._passed: OrderedDict[bytes, float] = OrderedDict()
        self._lock = threading.Lock()

    def wait(self, address: str, key: str | None, *, now: float) -> float:
        """Seconds until the address may try this key; 0 when it may."""
        since, count = self._seen.get(_host(address), (now, 0))
        if count < LIMIT or now - since >= WINDOW_S:
            return 0.0
        passed = self._passed.get(_digest(key)) if key is not None else None
        return 0.0 if passed is not None and now - passed < TRUST_S else since + WINDOW_S - now

    def count(self, address: str, *, now: float, key: str | None = None) -> None:
        """One more failure.

        :param key: what failed; if it passed before (a key that was revoked, say), that no longer counts.
        """
        address = _host(address)
        with self._lock:
            if key is not None:
                self._passed.pop(_digest(key), None)
            since, count = self._seen.pop(address, (now, 0))
            if now - since >= WINDOW_S:
                since, count = now, 0
            self._seen[address] = (since, count + 1)
            if len(self._seen) > ADDRESSES:
                self._seen.popitem(last=False)

    def passed(self, key: str, *, now: float) -> None:
        """The key is genuine."""
        digest = _digest(key)
        held = self._passed.get(digest)
        if held is not None and now - held < WINDOW_S:
            return  # so that the hot path takes no lock
        with self._lock:
            self._passed.pop(digest, None)
            self._passed[digest] = now
            if len(self._passed) > TRUSTED:
                self._passed.popitem(last=False)


@lru_cache(maxsize=1024)
def _host(address: str) -> str:
    if ":" not in address:
        return address
    try:
        number = IPv6Address(address)
    except AddressValueError:
        return address
    if number.ipv4_mapped is not None:
        return str(number.ipv4_mapped)
    return f"{int(number) >> 64:x}::/64"


def _digest(key: str) -> bytes:
    return blake2b(key.encode("utf-8", "surrogatepass"), digest_size=16).digest()
