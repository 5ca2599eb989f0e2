"""``on_failure: escalate``: when a step fails for good, the next level of the alert's routes hears of it."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy.orm import Session

from medic import audit, notices
from medic.executions import telling
from medic.models.executions import Execution


def escalate(session: Session, execution: Execution, *, error: dict[str, Any], now: datetime) -> set[int]:
    """Tell of an execution that ended here.

    Its alert climbs one level of each route that it went out by; where that is the last one already, the last one
    hears of it again.  Without an open alert whoever hears of the execution's service is told, else the default route.

    :param error: of the execution, with the step's name in it.
    :returns: the targets that have something due now.
    """
    text = f"Playbook {execution.playbook_name} failed at step {error.get('step')}: {error.get('message')}"
    evidence = {
        "playbook": execution.playbook_name,
        "execution": str(execution.id),
        "step": error.get("step"),
    }
    told = None
    if execution.alert_id is not None:
        told = notices.escalate(session, execution.alert_id, text=text, evidence=evidence, now=now)
    by_alert = told is not None
    if told is None:
        about = f"{execution.service_name}: " if execution.service_name else ""
        told = telling.tell_people(
            session,
            execution,
            f"{about}{text}\nExecution {execution.id}",
            once=f"{execution.id}.escalated",
            now=now,
        )
    audit.append(
        session, now=now, actor=audit.MEDIC, action="execution.escalate", object_kind="execution",
        object_id=execution.id,
        detail={"step": error.get("step"), "alert": execution.alert_id if by_alert else None, "targets": sorted(told)},
    )  # fmt: skip
    return told
