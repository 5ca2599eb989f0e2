"""The step task: claim (a transaction), act (none), record (a transaction), then the next link.

A message is a hint: whoever finds that the row moved on cuts the chain and changes nothing.  A message
whose step was done in its very epoch ends normally, so that Celery publishes the next link again; that
heals a crash between a record and its publish.
"""

from __future__ import annotations

import random
import secrets
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar
from uuid import UUID

import structlog
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import Session

from medic import broker, machine
from medic.audit import MEDIC
from medic.db import database_now, engine, in_transaction, is_away, sqlstate
from medic.executions import approvals, control
from medic.executions import claim as protocol
from medic.executions.claim import Claim
from medic.executions.dispatch import dispatch
from medic.executions.pinned import pinned
from medic.machine import Decision
from medic.steps import load_types
from medic.telemetry import metrics
from medic.telemetry.logs import bind_context
from medic_tasks.act import Acting
from medic_tasks.lease import Lease, LeaseLost

T = TypeVar("T")

log = structlog.get_logger("medic.step")
app = broker.app()

FENCED = "fenced: the row moved on"
FIRST_PAUSE_S = 0.2
LONGEST_PAUSE_S = 5.0
_BUSY = {"40001", "40P01", "55P03", "57014"}


@app.task(name=broker.STEP_TASK, bind=True, max_retries=2, default_retry_delay=1)
def step(self: Any, execution_id: str, position: int, epoch: int) -> str:
    """Do one step of an execution, if the row says that it is next."""
    bind_context(execution_id=execution_id)
    request = self.request
    said, goes_on = perform(
        UUID(execution_id),
        position,
        epoch,
        task_id=request.id,
        worker=request.hostname,
        linked=bool(request.chain),
    )
    if not goes_on:
        request.chain = None
    return said


def perform(
    execution_id: UUID, position: int, epoch: int, *, task_id: str, worker: str, linked: bool
) -> tuple[str, bool]:
    """One attempt.

    :param linked: the message carries further links.
    :returns: what Flower shows, and whether the chain goes on.
    """
    types = load_types()
    acting = [name for name, kind in types.items() if kind.acts]
    claimed_at = time.monotonic()
    held = _claim(execution_id, position, epoch, task_id=task_id, worker=worker, acting=acting)
    if held is None:
        done = in_transaction(
            engine(),
            lambda session: protocol.is_done(
                session, execution_id=execution_id, position=position, epoch=epoch
            ),
        )
        return ("done before", True) if done else (FENCED, False)
    playbook = pinned(held.source)
    current = playbook.steps[position]
    began = time.monotonic()
    with Lease(engine(), held, claimed_at=claimed_at) as lease:
        try:
            result = Acting(engine(), held, current, lease).run()
        except LeaseLost:
            log.warning("step.lease_lost", position=position)
            return FENCED, False
        decision = machine.decide(
            current, result, position=position, step_count=held.step_count, tries=held.tries,
            now=held.now + timedelta(seconds=time.monotonic() - began), chance=random.random(),  # noqa: S311 - the jitter of a retry
        )  # fmt: skip
        state = _record(held, decision, worker=worker)
    metrics.STEP_SECONDS.labels(current.type, decision.outcome).observe(time.monotonic() - began)
    if state is None:
        return "too late: kept as evidence", False
    if state in machine.FINAL_STATES:
        metrics.EXECUTIONS.labels(state).inc()
    said = f"{current.name}: {decision.step_state}"
    if state != "running":
        return f"{said} ({state})", False
    if not linked:
        dispatch(engine(), execution_id=execution_id, epoch=epoch)
    return said, linked


def _claim(
    execution_id: UUID, position: int, epoch: int, *, task_id: str, worker: str, acting: list[str]
) -> Claim | None:
    """Claim; when the commit is unsure, read back by the token whether it happened."""
    owner = UUID(bytes=secrets.token_bytes(16), version=4)
    tried = False

    def attempt(session: Session) -> Claim | None:
        if tried:
            held = protocol.read_back(session, execution_id=execution_id, owner=owner, acting=acting)
            if held is not None:
                return held
        return protocol.claim(
            session, execution_id=execution_id, position=position, epoch=epoch, owner=owner, task_id=task_id,
            worker=worker, acting=acting,
        )  # fmt: skip

    def work() -> Claim | None:
        nonlocal tried
        try:
            return in_transaction(engine(), attempt)
        finally:
            tried = True

    return _until_it_answers(work)


def _record(held: Claim, decision: Decision, *, worker: str) -> str | None:
    """Record until the row answers; a step's result never ends with a database error.

    :returns: the execution's state now, or nothing when this worker was fenced.
    """
    key: dict[str, Any] = {
        "execution_id": held.execution_id, "position": held.position, "epoch": held.epoch, "owner": held.owner,
    }  # fmt: skip

    def attempt(session: Session) -> str | None:
        recorded = protocol.record(session, **key, worker=worker, decision=decision)
        if recorded is not None:
            if decision.approval is not None and not recorded.cancelled:
                approvals.ask(
                    session, execution_id=held.execution_id, position=held.position, now=database_now(session),
                    question=decision.approval,
                )  # fmt: skip
            return recorded.state
        if protocol.was_recorded(session, **key):
            return session.execute(
                text("SELECT state FROM executions WHERE id = :id"), {"id": held.execution_id}
            ).scalar_one()
        _keep_evidence(session, key, decision)
        return None

    return _until_it_answers(lambda: in_transaction(engine(), attempt))


def _keep_evidence(session: Session, key: dict[str, Any], decision: Decision) -> None:
    """The lease was lost while the step acted.  If exactly this attempt is in doubt, its result settles it."""
    in_doubt = protocol.keep_late_result(session, **key, decision=decision)
    if in_doubt and decision.step_ended and decision.outcome in {"completed", "failed"}:
        control.settle(
            session,
            execution_id=key["execution_id"],
            verdict="happened" if decision.outcome == "completed" else "fail",
            actor=MEDIC,
            now=database_now(session),
            output=decision.output,
        )


def _until_it_answers(work: Callable[[], T]) -> T:
    """Try again, with growing pauses, for as long as the database is away."""
    pause = FIRST_PAUSE_S
    while True:
        try:
            return work()
        except (DBAPIError, PoolTimeout) as error:
            if isinstance(error, DBAPIError) and not (is_away(error) or sqlstate(error) in _BUSY):
                raise
            log.warning("step.database_away", error=type(error).__name__)
        time.sleep(pause)
        pause = min(pause * 2, LONGEST_PAUSE_S)
