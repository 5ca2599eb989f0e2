"""A record that found the row moved on: did it happen after all, and what is its result still good for?"""

from __future__ import annotations

from uuid import UUID

from sqlalchemy import bindparam, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Session

from medic.machine import Decision


def was_recorded(session: Session, *, execution_id: UUID, position: int, epoch: int, owner: UUID) -> bool:
    """The record whose commit was unsure did happen."""
    return bool(
        session.execute(
            text("SELECT 1 FROM step_attempts WHERE execution_id = :id AND position = :position AND epoch = :epoch"
                 " AND owner = :owner AND outcome IS NOT NULL AND outcome <> 'lost'"),
            {"id": execution_id, "position": position, "epoch": epoch, "owner": owner},
        ).scalar()
    )  # fmt: skip


def keep_late_result(
    session: Session, *, execution_id: UUID, position: int, epoch: int, owner: UUID, decision: Decision
) -> bool:
    """A zombie's result: kept as evidence beside the attempt that was given up.

    :returns: true when exactly this attempt is the one in doubt, so that the result may settle it.
    """
    session.execute(
        text("UPDATE step_attempts SET output = :output, error = :error"
             " WHERE execution_id = :id AND position = :position AND epoch = :epoch AND owner = :owner"
             " AND outcome = 'lost'").bindparams(
            bindparam("output", type_=JSONB(none_as_null=True)), bindparam("error", type_=JSONB(none_as_null=True))
        ),
        {"id": execution_id, "position": position, "epoch": epoch, "owner": owner, "output": decision.output,
         "error": decision.step_error},
    )  # fmt: skip
    return bool(
        session.execute(
            text("SELECT 1 FROM executions e WHERE e.id = :id AND e.state = 'in_doubt' AND e.next_step = :position"
                 " AND :epoch = coalesce((SELECT CAST(s.doubt ->> 'epoch' AS int) FROM execution_steps s"
                 "                         WHERE s.execution_id = e.id AND s.position = :position),"
                 "                       (SELECT max(t.epoch) FROM step_attempts t"
                 "                         WHERE t.execution_id = e.id AND t.position = :position))"),
            {"id": execution_id, "position": position, "epoch": epoch},
        ).scalar()
    )  # fmt: skip
