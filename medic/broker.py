"""The queue: messages are hints that carry ids, sent by name after the commit.

Whoever sends need not know the task's code; a test asserts that each name sent here is registered by
the worker.  A publish that fails changes nothing but latency.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import structlog
from celery import Celery, chain
from celery.canvas import Signature
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

SYSTEM = "medic.system"
DELIVERIES = "medic.deliveries"
STEPS = "medic.steps"
SCRIPTS = "medic.scripts"
HOUSEKEEPING = "medic.housekeeping"

STEP_TASK = "medic.step"
DELIVER_TASK = "medic.deliver.target"

# A step enforces its own time limit; this one only frees a worker from an act that never returns.
TIME_LIMIT_MARGIN_S = 600

# The sweep asks again every other second; what is older than this only makes the queue longer.
DELIVERY_EXPIRES_S = 60

log = structlog.get_logger("medic.broker")


@dataclass(frozen=True, slots=True)
class Link:
    """One step in a chain: what Celery and Flower show of it."""

    execution_id: str
    position: int
    epoch: int
    task_id: str
    step_type: str
    step_name: str
    queue: str
    timeout_s: float


@lru_cache(maxsize=1)
def app() -> Celery:
    """This process's Celery application, with the settings of ``celeryconfig``."""
    made = Celery("medic", set_as_current=True)
    made.config_from_object("celeryconfig")
    return made


def publish_chain(links: list[Link], *, root_id: str, parent_id: str | None) -> bool:
    """Publish the links as one Celery chain; false when the broker did not take it."""
    steps = [_signature(link) for link in links]
    # Celery gives the root on to every link, but takes the parent only from the first link itself.
    steps[0].set(parent_id=parent_id)
    try:
        chain(*steps, app=app()).apply_async(root_id=root_id)
    except (OperationalError, RedisError, OSError) as error:
        log.warning("broker.publish_failed", execution_id=root_id, error=type(error).__name__)
        return False
    return True


def publish_delivery(target_id: int) -> bool:
    """Ask for the deliveries of a target; false when the broker did not take it."""
    try:
        app().send_task(DELIVER_TASK, args=(target_id,), queue=DELIVERIES, expires=DELIVERY_EXPIRES_S)
    except (OperationalError, RedisError, OSError) as error:
        log.warning("broker.publish_failed", target_id=target_id, error=type(error).__name__)
        return False
    return True


def _signature(link: Link) -> Signature:
    signature = app().signature(
        STEP_TASK,
        args=(link.execution_id, link.position, link.epoch),
        immutable=True,
    )
    signature.set(
        task_id=link.task_id,
        queue=link.queue,
        shadow=f"medic.step.{link.step_type}",
        argsrepr=f"({link.step_name!r},)",
        kwargsrepr="{}",
        time_limit=link.timeout_s + TIME_LIMIT_MARGIN_S,
    )
    return signature
