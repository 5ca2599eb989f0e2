"""The rows of newly overdue services, written bare: what no verdict, however fast, can save.

The statements are set-based, and their values are copied from what Medic wrote for one service in the same run; tables,
keys, indexes and batches are Medic's.
"""

from __future__ import annotations

from sqlalchemy import text

from bench.stage import Database

_CLAIM = text(
    """
    WITH due AS MATERIALIZED (
        SELECT service_id FROM service_states WHERE due_at <= now()
         ORDER BY due_at, service_id LIMIT :batch FOR NO KEY UPDATE SKIP LOCKED
    ), template AS (
        SELECT * FROM service_states WHERE service_id = :template
    )
    UPDATE service_states s
       SET due_at = now() + interval '1 day', status = t.status, quiet = t.quiet, failures = t.failures,
           carried = t.carried
      FROM due, template t WHERE s.service_id = due.service_id
 RETURNING s.service_id
    """
)
_ALERTS = text(
    """
    INSERT INTO alerts (service_id, service_name, priority, reasons, opened_at, detected_at, told, told_at)
    SELECT s.id, s.name, t.priority, t.reasons, now(), now(), t.told, now()
      FROM services s, alerts t WHERE s.id = ANY(:ids) AND t.service_id = :template AND t.resolved_at IS NULL
 RETURNING id
    """
)
_TRANSITIONS = text(
    """
    INSERT INTO alert_transitions (alert_id, kind, reason, at, recorded_at, evidence)
    SELECT a.id, t.kind, t.reason, now(), now(), t.evidence
      FROM unnest(CAST(:alerts AS bigint[])) AS a (id), alert_transitions t
     WHERE t.alert_id = (SELECT id FROM alerts WHERE service_id = :template AND resolved_at IS NULL)
 RETURNING alert_id, id
    """
)
_ROUTES = text(
    """
    INSERT INTO alert_routes (alert_id, route_id, level, level_at)
    SELECT a.id, t.route_id, t.level, now()
      FROM unnest(CAST(:alerts AS bigint[])) AS a (id), alert_routes t
     WHERE t.alert_id = (SELECT id FROM alerts WHERE service_id = :template AND resolved_at IS NULL)
    """
)
_DELIVERIES = text(
    """
    INSERT INTO deliveries (uuid, alert_id, transition_id, route_id, target_id, kind, level, position, payload, due_at,
                            created_at)
    SELECT gen_random_uuid(), a.id, a.transition_id, t.route_id, t.target_id, t.kind, t.level, t.position, t.payload,
           now(), now()
      FROM unnest(CAST(:alerts AS bigint[]), CAST(:transitions AS bigint[])) AS a (id, transition_id), deliveries t
     WHERE t.alert_id = (SELECT id FROM alerts WHERE service_id = :template AND resolved_at IS NULL)
    """
)


def write_all(database: Database, *, template: int, batch: int) -> None:
    """Claim whatever is due and write its rows, a batch a transaction.

    :param template: the service whose rows are copied.
    """
    claimed = batch
    while claimed == batch:
        with database.engine.begin() as connection:
            ids = connection.execute(_CLAIM, {"batch": batch, "template": template}).scalars().all()
            claimed = len(ids)
            if not ids:
                return
            opened = connection.execute(_ALERTS, {"ids": list(ids), "template": template}).scalars().all()
            rows = connection.execute(_TRANSITIONS, {"alerts": list(opened), "template": template}).all()
            connection.execute(_ROUTES, {"alerts": list(opened), "template": template})
            alerts, transitions = zip(*rows, strict=True)
            values = {"alerts": list(alerts), "transitions": list(transitions), "template": template}
            connection.execute(_DELIVERIES, values)
