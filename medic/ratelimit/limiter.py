"""The limiter: one call in, one decision out, whatever Redis does."""

from __future__ import annotations

import os
import weakref
from collections.abc import Mapping
from hashlib import blake2b

import redis

from medic.ratelimit.circuit import Circuit
from medic.ratelimit.decision import WINDOW_US, Decision
from medic.ratelimit.gcra import Settlement
from medic.ratelimit.lease import LeasedBuckets
from medic.ratelimit.memory import WindowLogs
from medic.ratelimit.policy import Policy, RateClass
from medic.ratelimit.redis_store import RedisStore
from medic.ratelimit.window import WindowVerdict

_PREFIX = "medic:rl"
_LONG = 128


class Limiter:
    """Limits calls by class and subject.  Safe for threads and forks; never raises for what Redis does.

    The classes heartbeat, heartbeat_key and ping are smooth and may err by the bound in
    `medic.ratelimit.lease`; in every other class the N+1st call in any 60 s is refused, exactly, over all
    processes that share the Redis.  While Redis is away each process applies the same limits by itself.

    :param store: None limits within this process.
    """

    def __init__(self, policies: Mapping[RateClass, Policy], store: RedisStore | None = None) -> None:
        self._policies: dict[str, Policy] = {name.value: policy for name, policy in policies.items()}
        self._store = store
        self._circuit = Circuit()
        self._logs = WindowLogs()
        self._buckets = LeasedBuckets(self._settle if store is not None else None)
        _limiters.add(self)

    def hit(self, rate_class: str, subject: str, *, cost: int = 1, services: int = 0, now: float) -> Decision:
        """Count one call and judge it.

        :param rate_class: one of `RateClass`.
        :param subject: whom it is counted for; goes into Redis as a hash only.
        :param cost: how many calls it stands for, 1 or more.
        :param services: for heartbeat_key, how many services the key may write.
        :param now: seconds of a clock that does not step back, as `time.monotonic()`; compared with nothing
            outside this process (shared windows use the clock of Redis).
        :raises ValueError: for an unknown class or a cost below 1.
        """
        if cost < 1:
            raise ValueError("cost must be 1 or more")
        policy = self._policies.get(rate_class)
        if policy is None:
            raise ValueError(f"{rate_class} is no class of calls")
        if not policy.exact:
            if policy.per_service:
                policy = policy.for_services(services)
            # Hashed when it goes to Redis, which is seldom; here only if it is long enough to fill the memory.
            short = subject if len(subject) <= _LONG else _hashed(subject)
            return self._buckets.hit((policy.name, short), policy, cost=cost, now=now)
        key = _key(policy, subject)
        verdict = self._shared_window(key, policy, cost=cost, now=now)
        if verdict is None:
            verdict = self._logs.hit(key, policy, cost=cost, now=round(now * 1_000_000), window=WINDOW_US)
        return Decision(
            policy=policy.name,
            allowed=verdict.allowed,
            limit=policy.limit,
            remaining=verdict.remaining,
            reset_after=verdict.reset_after / 1_000_000,
            retry_after=verdict.retry_after / 1_000_000,
        )

    @property
    def backend(self) -> str:
        """``redis`` or ``memory``: what was chosen at the start."""
        return "memory" if self._store is None else "redis"

    @property
    def degraded(self) -> bool:
        """True while Redis was chosen but does not answer."""
        return self._store is not None and not self._circuit.closed

    def is_healthy(self) -> bool:
        """False when Redis was chosen and does not answer a PING; never raises."""
        return self._store is None or self._store.answers()

    def close(self) -> None:
        """Close the connections; a later call opens new ones."""
        if self._store is not None:
            self._store.close()

    def _shared_window(self, key: str, policy: Policy, *, cost: int, now: float) -> WindowVerdict | None:
        if self._store is None or not self._circuit.lets_through(now=now):
            return None
        try:
            verdict = self._store.window(key, policy, cost=cost)
        except (redis.RedisError, OSError) as error:
            self._circuit.failed(error, now=now)
            return None
        self._circuit.succeeded()
        return verdict

    def _settle(self, subject: str, policy: Policy, *, owed: int, cost: int, now: float) -> Settlement | None:
        if self._store is None or not self._circuit.lets_through(now=now):
            return None
        try:
            settlement = self._store.settle(_key(policy, subject), policy, owed=owed, cost=cost)
        except (redis.RedisError, OSError) as error:
            self._circuit.failed(error, now=now)
            return None
        self._circuit.succeeded()
        return settlement

    def _after_fork(self) -> None:
        self._circuit.after_fork()
        self._logs.after_fork()
        self._buckets.after_fork()


def _hashed(subject: str) -> str:
    # surrogatepass: a header may decode to lone surrogates, and no subject may raise.
    return blake2b(subject.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def _key(policy: Policy, subject: str) -> str:
    return f"{_PREFIX}:{policy.name}:{_hashed(subject)}"


_limiters: weakref.WeakSet[Limiter] = weakref.WeakSet()


def _renew_locks() -> None:
    for limiter in list(_limiters):
        limiter._after_fork()  # noqa: SLF001 - this module's own class


os.register_at_fork(after_in_child=_renew_locks)
