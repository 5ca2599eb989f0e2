"""The smooth rate with leases: heartbeats are mostly judged in this process, in microseconds.

Each subject has one shared bucket in Redis (rate `limit` a minute, burst `B`), and in every process a copy
of it as last seen, beside a small bucket of the process's own: the *lease*, burst ``B // 8``, refilled at
``limit / 32`` a minute.

1. A call that the copy refuses is refused: the shared bucket is at least as full as the copy.
2. A call that fits the copy and the lease passes.  Redis hears nothing of it yet.
3. A call that the lease does not hold settles: one round trip charges the shared bucket with the calls that
   the lease let through, judges this call there, and brings the copy up to date; the lease is whole again.

**The bound on the error.**  With `P` processes, at most

    B + limit x w + P x (B // 8 + limit / 32 x w)

calls of one subject pass in `w` minutes; the first two terms are the exact limit.  By default (120 a minute,
burst 60) a minute admits 180 exactly, and at most 11 more for each process.  In the other direction, a call
may be refused while up to ``P x (B // 8)`` more would have fit, since a lease is charged when it is settled
and not when it was used.  Without Redis there is one process and no error.  While Redis is away each process
applies the whole limit by itself.  A subject that was forgotten (more than `MAX_SUBJECTS` others since) has
a new lease.

A service that beats once a minute stays inside its lease for ever and costs Redis nothing.
"""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from typing import Protocol

from medic.ratelimit.decision import WINDOW, Decision
from medic.ratelimit.gcra import SLACK, Settlement, advance
from medic.ratelimit.policy import Policy

LEASE_SHARE = 8
LEASE_LEAK = 32
MAX_SUBJECTS = 50_000


Key = tuple[str, str]
"""The class's name and the subject."""


class Settle(Protocol):
    """Asks the shared bucket; None when Redis cannot be asked now."""

    def __call__(
        self, subject: str, policy: Policy, *, owed: int, cost: int, now: float
    ) -> Settlement | None: ...


class _Bucket:
    """What this process knows of one subject; moments in seconds of the caller's clock."""

    __slots__ = ("lease", "settling", "tat")

    def __init__(self, now: float) -> None:
        self.tat = now
        self.lease = now
        self.settling = 0


class LeasedBuckets:
    """The buckets of many subjects in this process.  Safe for threads; nothing is locked during I/O.

    :param settle: the way to the shared buckets; None when this process is alone.
    """

    def __init__(self, settle: Settle | None, *, max_subjects: int = MAX_SUBJECTS) -> None:
        self._settle = settle
        self._max_subjects = max_subjects
        self._lock = threading.Lock()
        self._buckets: OrderedDict[Key, _Bucket] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def hit(self, key: Key, policy: Policy, *, cost: int, now: float) -> Decision:
        """Judge one call; at most one round trip, mostly none."""
        interval = WINDOW / policy.limit
        lease_interval = interval * LEASE_LEAK
        lease_burst = max(1, policy.burst // LEASE_SHARE)
        with self._lock:
            bucket = self._bucket(key, now)
            # Further ahead than a charge may push: the clock stepped back, and the moment means nothing.
            if bucket.tat - now > policy.burst * interval + WINDOW + interval:
                bucket.tat = now
            if bucket.lease - now > (lease_burst + SLACK) * lease_interval:
                bucket.lease = now
            allowed, tat = advance(bucket.tat, now=now, interval=interval, burst=policy.burst, cost=cost)
            if not allowed or self._settle is None:
                bucket.tat = tat
                return _decision(policy, allowed, tat - now, cost)
            held, lease = advance(
                bucket.lease, now=now, interval=lease_interval, burst=lease_burst, cost=cost
            )
            # While another thread settles, the lease is on its way to Redis and must not be used twice.
            if held and not bucket.settling:
                bucket.tat, bucket.lease = tat, lease
                return _decision(policy, True, tat - now, cost)
            used = max(0.0, bucket.lease - now) / lease_interval
            owed = 0 if bucket.settling else math.ceil(used - SLACK)
            bucket.settling += 1
        settlement = None
        try:
            settlement = self._settle(key[1], policy, owed=owed, cost=cost, now=now)
        finally:
            decision = self._settled(bucket, policy, settlement, cost=cost, now=now)
        return decision

    def after_fork(self) -> None:
        """The child owes nothing: what the parent let through, the parent settles."""
        self._lock = threading.Lock()
        self._buckets = OrderedDict()

    def _settled(
        self, bucket: _Bucket, policy: Policy, settlement: Settlement | None, *, cost: int, now: float
    ) -> Decision:
        with self._lock:
            bucket.settling -= 1
            if not bucket.settling:
                bucket.lease = now
            if settlement is not None:
                bucket.tat = max(bucket.tat, now + settlement.ahead)
                return _decision(policy, settlement.allowed, settlement.ahead, cost)
            interval = WINDOW / policy.limit
            allowed, bucket.tat = advance(
                bucket.tat, now=now, interval=interval, burst=policy.burst, cost=cost
            )
            return _decision(policy, allowed, bucket.tat - now, cost)

    def _bucket(self, key: Key, now: float) -> _Bucket:
        bucket = self._buckets.get(key)
        if bucket is None:
            bucket = self._buckets[key] = _Bucket(now)
            if len(self._buckets) > self._max_subjects:
                self._buckets.popitem(last=False)
        else:
            self._buckets.move_to_end(key)
        return bucket


def _decision(policy: Policy, allowed: bool, ahead: float, cost: int) -> Decision:
    interval = WINDOW / policy.limit
    ahead = max(0.0, ahead)
    return Decision(
        policy=policy.name,
        allowed=allowed,
        limit=policy.limit,
        remaining=max(0, math.floor(policy.burst - ahead / interval + SLACK)),
        reset_after=ahead,
        retry_after=0.0 if allowed else max(0.0, ahead + (cost - policy.burst) * interval),
    )
