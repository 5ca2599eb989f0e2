"""How many there are of what, read at the moment of a scrape."""

from __future__ import annotations

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from medic.machine import FINAL_STATES
from medic.models.alerting import Alert
from medic.models.executions import Execution
from medic.models.monitoring import ServiceState
from medic.telemetry.exposition import Census


def census(session: Session) -> Census:
    """Services by status, open alerts, executions under way by state."""
    by_status = select(ServiceState.status, func.count()).group_by(ServiceState.status)
    active = select(func.count()).select_from(Alert).where(Alert.resolved_at.is_(None))
    by_state = (
        select(Execution.state, func.count())
        .where(Execution.state.not_in(FINAL_STATES))
        .group_by(Execution.state)
    )
    return Census(
        services=dict(session.execute(by_status).all()),
        alerts_active=session.scalar(active) or 0,
        executions=dict(session.execute(by_state).all()),
    )
