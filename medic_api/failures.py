"""Failed keys by address: whoever guesses is not looked up any more.

Counted in each process; N processes let N times as many through, which at 190 bits changes nothing.
"""

from __future__ import annotations

import threading
from collections import OrderedDict

WINDOW_S = 60.0
LIMIT = 30
ADDRESSES = 10_000


class Failures:
    """How often an address failed within the window.  Times are a monotonic clock's seconds."""

    def __init__(self) -> None:
        self._seen: OrderedDict[str, tuple[float, int]] = OrderedDict()
        self._lock = threading.Lock()

    def wait(self, address: str, *, now: float) -> float:
        """Seconds until the address may try again; 0 when it may."""
        since, count = self._seen.get(address, (now, 0))
        return max(0.0, since + WINDOW_S - now) if count >= LIMIT else 0.0

    def count(self, address: str, *, now: float) -> None:
        """One more failure."""
        with self._lock:
            since, count = self._seen.pop(address, (now, 0))
            if now - since >= WINDOW_S:
                since, count = now, 0
            self._seen[address] = (since, count + 1)
            if len(self._seen) > ADDRESSES:
                self._seen.popitem(last=False)
