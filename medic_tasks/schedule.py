"""What beat sends, and when.  A tick is a hint: each job finds out by itself what is due.

Ticks of a sweep expire, so that a queue that stood still is not followed by a burst of them; surplus
ticks lose the compare-and-set on the last one.
"""

from __future__ import annotations

from typing import Any

from medic import settings as settings_
from medic.broker import DELIVERIES, HOUSEKEEPING, SYSTEM

TICK_EXPIRES_S = 120
EXECUTIONS_EVERY_S = 2
DELIVERIES_EVERY_S = 2
SUPPRESSION_EVERY_S = 5
TRIGGERS_EVERY_S = 5
SEALS_EVERY_S = 1
WATCHDOG_EVERY_S = 60
PARTITIONS_EVERY_S = 3600
DAYS_EVERY_S = 3600
RETENTION_EVERY_S = 3600


def schedule() -> dict[str, dict[str, Any]]:
    """Celery's beat schedule; intervals in seconds."""
    watched = settings_.current().watchdog_url is not None
    entries = {
        "sweep-services": _entry("medic.sweep.services", settings_.current().worker_interval_seconds, SYSTEM),
        "sweep-executions": _entry("medic.sweep.executions", EXECUTIONS_EVERY_S, SYSTEM),
        "sweep-suppression": _entry("medic.sweep.suppression", SUPPRESSION_EVERY_S, SYSTEM),
        "sweep-triggers": _entry("medic.sweep.triggers", TRIGGERS_EVERY_S, SYSTEM),
        "sweep-deliveries": _entry("medic.sweep.deliveries", DELIVERIES_EVERY_S, SYSTEM),
        "sweep-seals": _entry("medic.sweep.seals", SEALS_EVERY_S, SYSTEM),
        "make-partitions": _entry("medic.housekeeping.partitions", PARTITIONS_EVERY_S, HOUSEKEEPING),
        "roll-up-days": _entry("medic.housekeeping.days", DAYS_EVERY_S, HOUSEKEEPING),
        "keep-retention": _entry("medic.housekeeping.retention", RETENTION_EVERY_S, HOUSEKEEPING),
    }
    if watched:
        entries["ping-watchdog"] = _entry("medic.watchdog.ping", WATCHDOG_EVERY_S, DELIVERIES)
    return entries


def _entry(task: str, every_s: int, queue: str) -> dict[str, Any]:
    expires = TICK_EXPIRES_S if queue == SYSTEM else every_s
    return {"task": task, "schedule": float(every_s), "options": {"queue": queue, "expires": expires}}
