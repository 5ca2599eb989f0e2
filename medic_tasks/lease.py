"""Hold an execution while a step acts: a thread renews the lease and reads whether somebody cancelled."""

from __future__ import annotations

import threading
import time
from types import TracebackType
from typing import Self

import structlog
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from medic.db import in_transaction
from medic.executions.claim import EFFECT_MARGIN, LEASE, RENEW_EVERY, Claim, renew

AFTER_A_FAILURE_S = 2.0
"""A renewal that failed is tried again soon: three that wait their turn would cost the lease."""

log = structlog.get_logger("medic.lease")


class LeaseLost(Exception):
    """The lease is not surely ours: no effect may start."""


class CancelledBeforeEffect(Exception):
    """Somebody cancelled before the effect started."""


class Lease:
    """The lease of one claim.

    :param claimed_at: this machine's monotonic clock right before the claim was sent; a renewal counts
        from before its sending too, so that a slow answer never makes the lease look younger than it is.
    """

    def __init__(self, engine: Engine, claim: Claim, *, claimed_at: float) -> None:
        self._engine = engine
        self._claim = claim
        self._confirmed_at = claimed_at
        self._over = threading.Event()
        self._lost = False
        self._cancelled = False
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    def should_stop(self) -> bool:
        """Somebody cancelled, or somebody else has the step."""
        return self._cancelled or self._lost

    def before_effect(self) -> None:
        """Go on only while the lease is surely ours.

        :raises LeaseLost: when its last confirmed renewal is too old, or it was taken.
        :raises CancelledBeforeEffect: when the execution was cancelled.
        """
        if self._cancelled:
            raise CancelledBeforeEffect
        age = time.monotonic() - self._confirmed_at
        if self._lost or age >= (LEASE - EFFECT_MARGIN).total_seconds():
            raise LeaseLost

    def _keep(self) -> None:
        claim = self._claim
        pause = RENEW_EVERY.total_seconds()
        while not self._over.wait(pause):
            asked_at = time.monotonic()
            try:
                renewal = in_transaction(
                    self._engine,
                    lambda session: renew(
                        session, execution_id=claim.execution_id, epoch=claim.epoch, owner=claim.owner
                    ),
                )
            except SQLAlchemyError as error:
                log.warning("lease.not_renewed", error=type(error).__name__)
                pause = AFTER_A_FAILURE_S
                continue
            pause = RENEW_EVERY.total_seconds()
            if renewal is None:
                self._lost = True
                return
            self._confirmed_at = asked_at
            self._cancelled = renewal.cancelled
