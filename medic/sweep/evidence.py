"""What a verdict is judged by: the signals behind each row's cursor, and the runs as they stood there."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from sqlalchemy import text
from sqlalchemy.orm import Session

from medic.evaluator import Kind, OpenRun, Signal
from medic.heartbeats import HISTORY_AGE
from medic.sweep.rows import Due

COMMIT_LAG = timedelta(minutes=5)
"""No ingest transaction lives this long: older partitions hold no signal behind the cursor."""

FORGOTTEN_AFTER = timedelta(days=1)
"""The least retention of heartbeats: the signal of a younger start is there."""


def signals_behind(session: Session, dues: Sequence[Due]) -> dict[int, list[Signal]]:
    """What arrived behind each row's cursor; a quiet row on `every` has folded its own in."""
    found: dict[int, list[Signal]] = defaultdict(list)
    wanted: list[tuple[int, int, datetime]] = []
    for due in dues:
        service, state = due.service, due.state
        if service.within_s is not None:
            # The window before the cursor counts too.
            window = timedelta(seconds=service.within_s)
            wanted.append((service.id, 0, state.folded_until - COMMIT_LAG - window))
        elif not (due.row.quiet and service.every_s is not None):
            # A row that was quiet for long has an old `folded_until`, but a folded success from just now.
            newest = max(filter(None, (state.folded_until, state.last_success_at)))
            wanted.append((service.id, state.folded_id, newest - COMMIT_LAG))
    if not wanted:
        return found
    heartbeats = session.execute(
        text(
            """
            SELECT h.service_id, h.id, h.event_at, h.received_at, h.run_id, h.exit_code,
                   -- A start that opened no run came behind its end, which a quiet row has folded in unseen.
                   CASE WHEN h.kind = 'start' AND h.run_id IS NULL AND NOT EXISTS (
                             SELECT 1 FROM runs r
                              WHERE r.service_id = h.service_id AND r.started_at = h.event_at AND r.start_id = h.id)
                        THEN 'log' ELSE h.kind END AS kind
              FROM unnest(:services, :folded, :since) AS w (service_id, folded_id, since)
             CROSS JOIN LATERAL (
                SELECT * FROM heartbeats b
                 WHERE b.service_id = w.service_id AND b.received_at >= w.since AND b.id > w.folded_id
             ) h
             WHERE h.received_at >= :oldest
             ORDER BY h.service_id, h.id
            """
        ),
        {
            "services": [service_id for service_id, _, _ in wanted],
            "folded": [folded for _, folded, _ in wanted],
            "since": [since for _, _, since in wanted],
            # Said once more as a constant, so that the planner leaves older partitions alone.
            "oldest": min(since for _, _, since in wanted),
        },
    )
    for beat in heartbeats:
        found[beat.service_id].append(
            Signal(
                id=beat.id,
                kind=Kind(beat.kind),
                event_at=beat.event_at,
                received_at=beat.received_at,
                run_id=beat.run_id,
                exit_code=beat.exit_code,
                is_history=beat.received_at - beat.event_at > HISTORY_AGE,
            )
        )
    return found


def runs_behind(
    session: Session, dues: Sequence[Due], signals: Mapping[int, Sequence[Signal]], *, now: datetime
) -> dict[int, list[OpenRun]]:
    """The runs as they stood at each row's cursor: the open ones, and the ended ones that a signal names.

    A run behind the cursor is opened by its start's signal.  After a pause longer than the retention of heartbeats
    that signal is gone, and the run counts as open from the beginning.
    """
    named = [
        (due.service.id, due.state.folded_id, signal.run_id)
        for due in dues
        for signal in signals.get(due.service.id, ())
        if signal.run_id is not None and signal.id > due.state.folded_id
    ]
    found: dict[int, list[OpenRun]] = defaultdict(list)
    for run in session.execute(
        text(
            """
            SELECT r.service_id, r.id, r.run_id, r.started_at, CAST(NULL AS timestamptz) AS ended_at
              FROM unnest(CAST(:services AS bigint[]), CAST(:folded AS bigint[]), CAST(:quiet AS boolean[]))
                AS w (service_id, folded_id, quiet)
              JOIN runs r ON r.service_id = w.service_id
             WHERE (r.start_id IS NULL OR r.start_id <= w.folded_id
                    OR (NOT w.quiet AND r.started_at < :forgotten AND r.start_id <> ALL (CAST(:taken AS bigint[]))))
               AND (r.state = 'open' OR r.end_id > w.folded_id)
             UNION
            SELECT r.service_id, r.id, r.run_id, r.started_at, r.ended_at
              FROM unnest(CAST(:named_services AS bigint[]), CAST(:named_folded AS bigint[]),
                          CAST(:named_runs AS text[]))
                AS n (service_id, folded_id, run_id)
              JOIN runs r ON r.service_id = n.service_id AND r.run_id = n.run_id
             WHERE r.state <> 'open' AND coalesce(r.end_id, 0) <= n.folded_id
             ORDER BY service_id, started_at
            """
        ),
        {
            "services": [due.service.id for due in dues],
            "folded": [due.state.folded_id for due in dues],
            "quiet": [due.row.quiet for due in dues],
            "forgotten": now - FORGOTTEN_AFTER,
            "taken": [
                signal.id for beats in signals.values() for signal in beats if signal.kind is Kind.START
            ],
            "named_services": [service_id for service_id, _, _ in named],
            "named_folded": [folded for _, folded, _ in named],
            "named_runs": [run_id for _, _, run_id in named],
        },
    ):
        found[run.service_id].append(OpenRun(run.id, run.run_id, run.started_at, run.ended_at))
    return found
