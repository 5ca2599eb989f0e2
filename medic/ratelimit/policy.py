"""The classes of calls and how many of each may pass in a minute.  Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import lru_cache

from medic.settings import Settings


class RateClass(StrEnum):
    """What is limited, and in brackets the subject that it is counted for."""

    HEARTBEAT = "heartbeat"  # (service)
    HEARTBEAT_KEY = "heartbeat_key"  # (API key)
    PING = "ping"  # (ping URL)
    MANAGEMENT = "management"  # (API key)
    TRIGGER = "trigger"  # (API key)
    HEALTH = "health"  # (address)
    METRICS = "metrics"  # (API key, or address)
    DOCS = "docs"  # (address)


@dataclass(frozen=True, slots=True)
class Policy:
    """The limit of one class.

    :param limit: calls in any `WINDOW`; for a smooth class, the rate.
    :param burst: calls at one moment after a pause; for an exact class, its limit.
    :param exact: a sliding window that counts every call; else a smooth rate (GCRA) with leases.
    :param per_service: what each service that the subject may write adds to `limit`.
    """

    name: RateClass
    limit: int
    burst: int
    exact: bool
    per_service: int = 0

    def for_services(self, services: int) -> Policy:
        """The policy of a subject that may write so many services."""
        if self.per_service == 0 or services <= 0:
            return self
        return _widened(self, services)


@lru_cache
def _widened(policy: Policy, services: int) -> Policy:
    """Kept, as each heartbeat of a key asks for the same."""
    limit = policy.limit + policy.per_service * services
    return replace(policy, limit=limit, burst=limit)


def policies_from(settings: Settings) -> Mapping[RateClass, Policy]:
    """Each class's policy.

    A service may send RATE_LIMIT_HEARTBEAT_REQUESTS (120) a minute and half of it (60) at once.  A key may
    send half of it (60) a minute and a quarter (30) more for each service that it may write, all of it at
    once, since jobs of one host tend to start together.  So a raised limit raises all three.
    """
    heartbeat = settings.rate_limit_heartbeat
    base = max(1, heartbeat // 2)
    policies = [
        Policy(RateClass.HEARTBEAT, heartbeat, max(1, heartbeat // 2), exact=False),
        Policy(RateClass.HEARTBEAT_KEY, base, base, exact=False, per_service=max(1, heartbeat // 4)),
        Policy(RateClass.PING, settings.rate_limit_ping, max(1, settings.rate_limit_ping // 2), exact=False),
    ]
    for name, limit in (
        (RateClass.MANAGEMENT, settings.rate_limit_management),
        (RateClass.TRIGGER, settings.rate_limit_trigger),
        (RateClass.HEALTH, settings.rate_limit_health),
        (RateClass.METRICS, settings.rate_limit_metrics),
        (RateClass.DOCS, settings.rate_limit_docs),
    ):
        policies.append(Policy(name, limit, limit, exact=True))
    return {policy.name: policy for policy in policies}
