"""The shared state of the limits, in Redis: the only file here that talks to a network."""

from __future__ import annotations

from typing import Any, cast

import redis
from redis.backoff import NoBackoff
from redis.connection import BlockingConnectionPool
from redis.retry import Retry

from medic.errors import Misconfigured
from medic.ratelimit.address import connection_options
from medic.ratelimit.decision import WINDOW_US
from medic.ratelimit.gcra import Settlement
from medic.ratelimit.policy import Policy
from medic.ratelimit.scripts import SETTLE_SCRIPT, WINDOW_SCRIPT
from medic.ratelimit.window import WindowVerdict

TIMEOUT = 0.25
"""Seconds for a connect or an answer: a call must not wait longer for a Redis that is away."""
WAIT = 1.0
"""Seconds for a free connection: whoever gets none is counted apart, so it is worth a wait."""


class RedisStore:
    """One pool of connections and the two scripts.

    Every method raises `redis.RedisError` or `OSError` when Redis fails; `Limiter` turns that into a local
    decision.  Nothing is connected before the first call.  Safe for threads; after a fork the pool starts
    anew in the child (redis-py).
    """

    def __init__(self, client: redis.Redis) -> None:
        self._client = client
        self._window = client.register_script(WINDOW_SCRIPT)
        self._settle = client.register_script(SETTLE_SCRIPT)

    @classmethod
    def at(cls, url: str, *, pool_size: int, name: str = "REDIS_URL") -> RedisStore:
        """A store at a URL.

        :param name: the variable that the URL comes from.
        :raises Misconfigured: when the URL cannot be used.
        """
        options = connection_options(url, name=name)
        try:
            pool = BlockingConnectionPool(  # type: ignore[no-untyped-call]
                max_connections=pool_size,
                timeout=WAIT,
                socket_timeout=TIMEOUT,
                socket_connect_timeout=TIMEOUT,
                # A retry inside the client would double the wait; the circuit decides when to try again.
                retry=Retry(NoBackoff(), 0),
                protocol=2,
                **options,
            )
            # Makes a connection object, without connecting: options that it does not take show now.
            pool.connection_class(**pool.connection_kwargs)
        except (TypeError, ValueError, redis.RedisError):
            raise Misconfigured(f"{name}: has an option that the client does not take") from None
        return cls(redis.Redis(connection_pool=pool))

    def window(self, key: str, policy: Policy, *, cost: int, at: int | None = None) -> WindowVerdict:
        """Judge and log one call of an exact class.

        :param at: microseconds instead of the server's clock.
        """
        reply = self._window(keys=[key], args=[WINDOW_US, policy.limit, cost, "" if at is None else at])
        allowed, remaining, reset_after, retry_after = (int(part) for part in cast("list[Any]", reply))
        return WindowVerdict(
            allowed=bool(allowed), expired=0, at=at or 0, remaining=remaining,
            reset_after=reset_after, retry_after=retry_after,
        )  # fmt: skip

    def settle(
        self, key: str, policy: Policy, *, owed: int, cost: int, at: float | None = None
    ) -> Settlement:
        """Charge ``owed`` calls to the bucket of a smooth class, then judge one of ``cost``.

        :param at: microseconds instead of the server's clock.
        """
        interval = WINDOW_US / policy.limit
        cap = policy.burst * interval + WINDOW_US
        args: list[str | int] = [
            repr(interval),
            policy.burst,
            owed,
            cost,
            repr(cap),
            "" if at is None else repr(at),
        ]
        allowed, ahead = cast("list[Any]", self._settle(keys=[key], args=args))
        return Settlement(allowed=bool(int(allowed)), ahead=float(ahead) / 1_000_000)

    def answers(self) -> bool:
        """Whether Redis answers a PING; never raises."""
        try:
            return bool(self._client.ping())
        except (redis.RedisError, OSError):
            return False

    def close(self) -> None:
        """Close the connections."""
        if self._client.connection_pool is not None:
            self._client.connection_pool.disconnect()
