"""What waits on the broker's queues, as a scrape asks it: how much, and for which execution the oldest message is."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from medic.broker import DELIVERIES, HOUSEKEEPING, SCRIPTS, STEPS, SYSTEM
from medic.ratelimit.address import connection_options

QUEUES = (SYSTEM, DELIVERIES, STEPS, SCRIPTS, HOUSEKEEPING)
TIMEOUT_S = 1.0

_log = logging.getLogger("medic.queues")


@dataclass(frozen=True, slots=True)
class Waiting:
    """One queue: its messages that no worker has yet, and the execution of the one that waits longest."""

    depth: int
    oldest: UUID | None


class Queues:
    """Reads the queues.  Nothing is connected before the first look; safe for threads and after a fork.

    :param prefix: ``MEDIC_BROKER_PREFIX``.
    """

    def __init__(self, url: str, *, prefix: str) -> None:
        pool = redis.ConnectionPool(
            socket_timeout=TIMEOUT_S,
            socket_connect_timeout=TIMEOUT_S,
            retry=Retry(NoBackoff(), 0),
            **connection_options(url),
        )
        self._client = redis.Redis(connection_pool=pool)
        self._prefix = prefix
        self._failing = False

    def look(self) -> dict[str, Waiting]:
        """Each queue by its name; nothing while the broker does not answer (one warning)."""
        try:
            with self._client.pipeline(transaction=False) as pipeline:
                for queue in QUEUES:
                    pipeline.llen(self._prefix + queue)
                    pipeline.lindex(self._prefix + queue, -1)
                answers: list[Any] = pipeline.execute()
        except redis.RedisError as error:
            if not self._failing:
                _log.warning("metrics.broker_away", extra={"error": type(error).__name__})
            self._failing = True
            return {}
        self._failing = False
        pairs = zip(answers[::2], answers[1::2], strict=True)
        return {
            queue: Waiting(int(depth), _execution(raw))
            for queue, (depth, raw) in zip(QUEUES, pairs, strict=True)
        }


def _execution(raw: bytes | None) -> UUID | None:
    """The root of a message, which is its execution; a tick has none."""
    try:
        return UUID(str(json.loads(raw or b"")["headers"]["root_id"]))
    except (ValueError, LookupError, TypeError):
        return None
