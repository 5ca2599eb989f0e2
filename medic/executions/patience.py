"""Ask the database until it answers: what a step gave is worth waiting for."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

import structlog
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import Session

from medic.db import in_transaction, is_away, sqlstate

T = TypeVar("T")

log = structlog.get_logger("medic.patience")

FIRST_PAUSE_S = 0.2
LONGEST_PAUSE_S = 5.0
_BUSY = {"40001", "40P01", "55P03", "57014"}


def patiently(bind: Engine, work: Callable[[Session], T]) -> T:
    """`medic.db.in_transaction`, tried again with growing pauses for as long as the database is away or busy.

    ``work`` may run again after a commit that nobody knows the end of, so it must find out by itself
    whether it was done.
    """
    pause = FIRST_PAUSE_S
    while True:
        try:
            return in_transaction(bind, work)
        except (DBAPIError, PoolTimeout) as error:
            if isinstance(error, DBAPIError) and not (is_away(error) or sqlstate(error) in _BUSY):
                raise
            log.warning("database.away", error=type(error).__name__)
        time.sleep(pause)
        pause = min(pause * 2, LONGEST_PAUSE_S)
