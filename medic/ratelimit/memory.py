"""The exact window inside one process: the limiter without Redis, and its stand-in while Redis is away."""

from __future__ import annotations

import threading
from array import array
from collections import OrderedDict

from medic.ratelimit.policy import Policy
from medic.ratelimit.window import WindowVerdict, judge

MAX_SUBJECTS = 10_000
MAX_ENTRIES = 1_000_000
"""Eight bytes each.  Both bound what a stranger with many addresses can make this process remember."""


class WindowLogs:
    """The logs of many subjects; those unused for longest are forgotten when there are too many.

    A subject that is forgotten starts over.  One log alone may exceed ``max_entries`` if its limit does.
    Safe for threads.
    """

    def __init__(self, *, max_subjects: int = MAX_SUBJECTS, max_entries: int = MAX_ENTRIES) -> None:
        self._lock = threading.Lock()
        self._logs: OrderedDict[str, array[int]] = OrderedDict()
        self._max_subjects = max_subjects
        self._max_entries = max_entries
        self._entries = 0

    def __len__(self) -> int:
        return len(self._logs)

    @property
    def entries(self) -> int:
        return self._entries

    def hit(self, key: str, policy: Policy, *, cost: int, now: int, window: int) -> WindowVerdict:
        """Judge and log one call; times are microseconds."""
        with self._lock:
            log = self._logs.get(key)
            if log is None:
                log = self._logs[key] = array("q")
            else:
                self._logs.move_to_end(key)
            verdict = judge(log, now=now, window=window, limit=policy.limit, cost=cost)
            before = len(log)
            # Dropped only when half of the log is old: moving the rest then costs one step a call on average.
            if verdict.expired * 2 >= before:
                del log[: verdict.expired]
            if verdict.allowed:
                log.extend([verdict.at] * cost)
            self._entries += len(log) - before
            self._evict()
            return verdict

    def after_fork(self) -> None:
        """The lock may have been held by a thread that the child does not have."""
        self._lock = threading.Lock()

    def _evict(self) -> None:
        while len(self._logs) > 1 and (
            len(self._logs) > self._max_subjects or self._entries > self._max_entries
        ):
            _, log = self._logs.popitem(last=False)
            self._entries -= len(log)
