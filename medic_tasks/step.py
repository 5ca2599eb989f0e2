"""The step task: claim (a transaction), act (none), record (a transaction), then the next link.

A message is a hint: whoever finds that the row moved on cuts the chain and changes nothing.  A message
whose step was done in its very epoch ends normally, so that Celery publishes the next link again; that
heals a crash between a record and its publish.
"""

from __future__ import annotations

import random
import secrets
import time
from datetime import timedelta
from typing import Any
from uuid import UUID

import structlog
from sqlalchemy import text
from sqlalchemy.orm import Session

from medic import broker, machine
from medic.audit import MEDIC
from medic.db import at_once, database_now, engine
from medic.deliveries.due import hint
from medic.errors import MedicError
from medic.executions import approvals, control, late, telling
from medic.executions import claim as protocol
from medic.executions.claim import Claim
from medic.executions.dispatch import Dispatch, publish, raise_epoch
from medic.executions.escalation import escalate
from medic.executions.patience import patiently
from medic.executions.pinned import pinned
from medic.machine import Decision, Probed
from medic.models.executions import Execution, ExecutionStep
from medic.steps import load_types
from medic.steps.base import Park
from medic.telemetry import metrics
from medic.telemetry.logs import bind_context
from medic_tasks.act import Acting
from medic_tasks.lease import Lease, LeaseLost

log = structlog.get_logger("medic.step")
app = broker.app()

FENCED = "fenced: the row moved on"


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
    held, claimed_at = _claim(execution_id, position, epoch, task_id=task_id, worker=worker, acting=acting)
    if held is None:
        done = patiently(
            engine(),
            lambda session: protocol.is_done(
                session, execution_id=execution_id, position=position, epoch=epoch
            ),
        )
        if done and not linked:
            _dispatch_next(execution_id, epoch)
        return ("done before", True) if done else (FENCED, False)
    began = time.monotonic()
    try:
        current = pinned(held.source).steps[position]
    except MedicError as error:
        state = _record(held, machine.unreadable(position, error.message), worker=worker)
        return f"the playbook cannot be read ({state})", False
    with Lease(engine(), held, claimed_at=claimed_at) as lease:
        try:
            result = Acting(engine(), held, current, lease).run()
        except LeaseLost:
            # Nothing happened, so nobody needs to be in doubt: the row is given back, due at once.
            log.warning("step.lease_lost", position=position)
            result = Park(held.now) if held.doubt is None else Probed(
                "ask", "The probe was interrupted.", held.doubt, {}, again=held.now
            )  # fmt: skip
        decision = machine.decide(
            current, result, position=position, step_count=held.step_count, tries=held.tries,
            now=held.now + timedelta(seconds=time.monotonic() - began), chance=random.random(),  # noqa: S311 - the jitter of a retry
        )  # fmt: skip
        state = _record(held, decision, worker=worker)
    metrics.STEP_SECONDS.labels(current.type, decision.outcome).observe(time.monotonic() - began)
    log.info("step.done", step=current.name, type=current.type, outcome=decision.outcome, state=state)
    if state is None:
        return "too late: kept as evidence", False
    if state in machine.FINAL_STATES:
        metrics.EXECUTIONS.labels(state).inc()
        # On one clock, the database's, as far as the claim; from there on, the time that this attempt took.
        before = (held.now - held.created_at).total_seconds()
        metrics.EXECUTION_SECONDS.labels(state).observe(max(0.0, before + time.monotonic() - began))
    said = f"{current.name}: {decision.step_state}"
    if state != "running":
        return f"{said} ({state})", False
    if not linked:
        _dispatch_next(execution_id, epoch)
    return said, linked


def _claim(
    execution_id: UUID, position: int, epoch: int, *, task_id: str, worker: str, acting: list[str]
) -> tuple[Claim | None, float]:
    """Claim; when the commit is unsure, read back by the token whether it happened.

    :returns: the claim, and this machine's monotonic clock right before it was sent.
    """
    owner = UUID(bytes=secrets.token_bytes(16), version=4)
    tried_at: float | None = None

    def attempt(session: Session) -> Claim | None:
        nonlocal tried_at
        if tried_at is not None:
            held = protocol.read_back(session, execution_id=execution_id, owner=owner, acting=acting)
            if held is not None:
                return held
        tried_at = time.monotonic()
        return protocol.claim(
            session, execution_id=execution_id, position=position, epoch=epoch, owner=owner, task_id=task_id,
            worker=worker, acting=acting,
        )  # fmt: skip

    held = patiently(at_once(engine()), attempt)
    assert tried_at is not None
    return held, tried_at


def _dispatch_next(execution_id: UUID, epoch: int) -> None:
    """What comes behind the last link of a chain; when it stays out, the row is due and the sweep sends it."""

    def work(session: Session) -> Dispatch | None:
        return raise_epoch(session, execution_id=execution_id, epoch=epoch)

    ready = patiently(engine(), work)
    if ready is not None:
        publish(engine(), ready)


def _record(held: Claim, decision: Decision, *, worker: str) -> str | None:
    """Record until the row answers; a step's result never ends with a database error.

    :returns: the execution's state now, or nothing when this worker was fenced.
    """
    key: dict[str, Any] = {
        "execution_id": held.execution_id, "position": held.position, "epoch": held.epoch, "owner": held.owner,
    }  # fmt: skip

    def record(session: Session) -> str | None:
        recorded = protocol.record(session, **key, worker=worker, decision=decision)
        return None if recorded is None else recorded.state

    told: set[int] = set()

    def attempt(session: Session) -> str | None:
        told.clear()
        if decision.escalates and held.alert_id is not None:
            # Before the execution's row: whoever closes an alert and pokes its executions takes it first too.
            session.execute(
                text("SELECT 1 FROM alerts WHERE id = :id FOR NO KEY UPDATE"), {"id": held.alert_id}
            )
        recorded = protocol.record(session, **key, worker=worker, decision=decision)
        if recorded is not None:
            told.update(_follow(session, held, decision, cancelled=recorded.cancelled))
            return recorded.state
        if late.was_recorded(session, **key):
            return session.execute(
                text("SELECT state FROM executions WHERE id = :id"), {"id": held.execution_id}
            ).scalar_one()
        _keep_evidence(session, key, decision)
        return None

    # Almost always the record is the whole of it: one statement, which commits by itself.
    state = patiently(at_once(engine()), record) if decision.is_alone else None
    state = state or patiently(engine(), attempt)
    hint(told)
    return state


def _follow(session: Session, held: Claim, decision: Decision, *, cancelled: bool) -> set[int]:
    """What else commits with a result.

    :returns: the targets that have something due now.
    """
    now = database_now(session)
    told: set[int] = set()
    if decision.notice is not None:
        once = f"{held.execution_id}.s{held.position}"
        told |= telling.tell(session, decision.notice, once=once, now=now)
    if cancelled:
        return told
    if decision.approval is not None:
        approvals.ask(
            session,
            execution_id=held.execution_id,
            position=held.position,
            now=now,
            question=decision.approval,
        )
    if decision.escalates and decision.error is not None:
        execution = session.get_one(Execution, held.execution_id)
        told |= escalate(session, execution, error=decision.error, now=now)
    if decision.asks_of_doubt and decision.doubt is not None:
        execution = session.get_one(Execution, held.execution_id)
        step = session.get_one(ExecutionStep, (held.execution_id, held.position))
        epoch = decision.doubt["epoch"]
        told |= telling.tell_of_doubt(session, execution, step, epoch=epoch, slot=0, now=now)
    return told


def _keep_evidence(session: Session, key: dict[str, Any], decision: Decision) -> None:
    """The lease was lost while the step acted.  If exactly this attempt is in doubt, its result settles it."""
    in_doubt = late.keep_late_result(session, **key, decision=decision)
    if not in_doubt:
        return
    failed = decision.outcome == "failed"
    verdict: control.Verdict = "fail" if failed and decision.step_ended else "retry"
    control.settle(
        session,
        execution_id=key["execution_id"],
        verdict="happened" if decision.outcome == "completed" else verdict,
        actor=MEDIC,
        now=database_now(session),
        output=decision.output,
        error=decision.step_error if failed else None,
    )
