"""The tick of schedule triggers: whatever is due starts its playbook."""

from __future__ import annotations

from medic import broker, occurrences
from medic.db import database_now, engine, in_transaction
from medic.executions.dispatch import dispatch
from medic_tasks.sweeps import while_away

app = broker.app()

MOST = 500
"""Triggers of one tick; the next one goes on."""


@app.task(name="medic.sweep.triggers")
@while_away
def sweep_triggers() -> str:
    """Deal with the schedule triggers that are due, one short transaction for each."""
    bind = engine()
    seen = started = 0
    for _ in range(MOST):
        found, execution_id = in_transaction(
            bind, lambda session: occurrences.fire_due(session, now=database_now(session))
        )
        if not found:
            break
        seen += 1
        if execution_id is not None:
            started += 1
            dispatch(bind, execution_id=execution_id, epoch=0)
    return f"seen {seen}, started {started}"
