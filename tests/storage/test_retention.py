"""What goes when its time is over, and what stays however old it is."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Engine, text

from medic import retention
from medic.crypto.audit_chain import GENESIS, Head, extend, verify
from medic.db import in_transaction
from medic.idempotency import Kept, Repeatable, keep, recall
from medic.settings import Settings

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
KEY = b"k" * 32

SCENE = """
INSERT INTO services (id, uuid, name, every_s) OVERRIDING SYSTEM VALUE VALUES (1, gen_random_uuid(), 'web', 60);
INSERT INTO targets (id, name, kind) OVERRIDING SYSTEM VALUE VALUES (1, 'chat', 'slack');
INSERT INTO playbooks (id, name, version) OVERRIDING SYSTEM VALUE VALUES (1, 'fix', 1), (2, 'patch', 1);
INSERT INTO playbook_versions VALUES (1, 1, 'x', 'me', now()), (2, 1, 'x', 'me', now());
INSERT INTO triggers (playbook_id, kind, origin, service_pattern, cooldown_s)
  VALUES (1, 'alert', 'playbook', '*', NULL), (2, 'alert', 'playbook', '*', 8640000);
"""


class Past:
    """Rows of so many days ago."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.run(SCENE)

    def run(self, sql: str, **values: Any) -> Any:
        with self.engine.begin() as connection:
            found = connection.execute(text(sql), values)
            return found.all() if found.returns_rows else None

    def left(self, table: str, column: str = "id") -> list[Any]:
        return sorted(row[0] for row in self.run(f"SELECT {column} FROM {table}"))

    def alert(self, number: int, *, resolved: float | None) -> None:
        self.run(
            "INSERT INTO alerts (id, service_id, service_name, priority, reasons, opened_at, detected_at, resolved_at,"
            " resolution) OVERRIDING SYSTEM VALUE VALUES (:id, 1, 'web', 'p3', '{missed}', :at, :at, :end, :how)",
            id=number, at=ago(1000), end=None if resolved is None else ago(resolved),
            how=None if resolved is None else "recovered",
        )  # fmt: skip
        self.run(
            "INSERT INTO alert_transitions (id, alert_id, kind, at, recorded_at) OVERRIDING SYSTEM VALUE"
            " VALUES (:id, :id, 'opened', :at, :at)",
            id=number,
            at=ago(1000),
        )

    def delivery(self, number: int, *, finished: float | None, alert: int | None = None) -> None:
        self.run(
            "INSERT INTO deliveries (id, uuid, target_id, alert_id, kind, state, due_at, finished_at, created_at)"
            " OVERRIDING SYSTEM VALUE VALUES (:id, gen_random_uuid(), 1, :alert, 'opened', :state, :due, :end, :at)",
            id=number, alert=alert, state="pending" if finished is None else "delivered", at=ago(1000),
            due=ago(1000) if finished is None else None, end=None if finished is None else ago(finished),
        )  # fmt: skip

    def execution(
        self, number: int, *, finished: float | None, alert: int | None = None, playbook: int = 1
    ) -> None:
        self.run(
            "INSERT INTO executions (id, playbook_id, playbook_version, playbook_name, service_id, alert_id, started_by,"
            " state, step_count, due_at, finished_at, created_at)"
            " VALUES (:id, :playbook, 1, 'fix', 1, :alert, 'me', :state, 1, :due, :end, :at)",
            id=uuid_of(number), alert=alert, playbook=playbook, at=ago(1000),
            state="running" if finished is None else "failed", due=ago(1000) if finished is None else None,
            end=None if finished is None else ago(finished),
        )  # fmt: skip
        self.run(
            "INSERT INTO execution_steps (execution_id, position, name, type) VALUES (:id, 0, 'a', 'wait')",
            id=uuid_of(number),
        )
        self.run(
            "INSERT INTO step_attempts (execution_id, position, epoch, owner, task_id, worker, started_at)"
            " VALUES (:id, 0, 1, gen_random_uuid(), 't', 'w', :at)",
            id=uuid_of(number),
            at=ago(1000),
        )
        self.run(
            "INSERT INTO approvals (execution_id, plan, plan_digest, requested_at) VALUES (:id, '{}', 'x', :at)",
            id=uuid_of(number),
            at=ago(1000),
        )


def ago(days: float) -> datetime:
    return NOW - timedelta(days=days)


def uuid_of(number: int) -> str:
    return f"00000000-0000-0000-0000-{number:012}"


def numbers(uuids: list[Any]) -> list[int]:
    return [int(str(uuid)[-12:]) for uuid in uuids]


@pytest.fixture
def past(engine: Engine, here: None) -> Past:
    return Past(engine)


def let_go(*broken: str, **environ: str) -> dict[str, int]:
    """What went, at NOW; all but the broken tables could be cleaned."""
    from medic_tasks import housekeeping

    gone, failed = housekeeping.let_go(NOW, Settings.from_env(environ))
    assert failed == list(broken)
    return {what: count for what, count in gone.items() if count}


def test_an_alert_goes_so_long_after_its_end_with_all_that_happened_to_it(past: Past) -> None:
    past.alert(1, resolved=401)
    past.alert(2, resolved=399)
    past.alert(3, resolved=None)
    past.delivery(1, finished=401, alert=1)
    past.execution(1, finished=50, alert=1)
    assert let_go() == {"alerts": 1, "deliveries": 1}
    assert past.left("alerts") == past.left("alert_transitions") == [2, 3]
    assert past.run("SELECT alert_id FROM executions") == [(None,)]
    assert let_go(ALERT_RETENTION_DAYS="7") == {"alerts": 1}
    assert past.left("alerts") == [3]


def test_an_alert_that_something_still_works_on_stays(past: Past) -> None:
    for number in (1, 2):
        past.alert(number, resolved=500)
    past.delivery(1, finished=None, alert=1)
    past.execution(1, finished=None, alert=2)
    assert let_go() == {}
    assert (past.left("alerts"), past.left("deliveries")) == ([1, 2], [1])


def test_an_execution_goes_with_its_steps_and_one_that_is_not_final_stays(past: Past) -> None:
    past.execution(1, finished=91)
    past.execution(2, finished=89)
    past.execution(3, finished=None)
    assert let_go() == {"executions": 1}
    assert numbers(past.left("executions")) == [2, 3]
    for table in ("execution_steps", "step_attempts", "approvals"):
        assert numbers(past.left(table, "execution_id")) == [2, 3], table


def test_an_execution_stays_while_another_start_depends_on_it(past: Past) -> None:
    """While its alert is open, and while its playbook's cooldown lasts: 100 days here."""
    past.alert(1, resolved=None)
    past.alert(2, resolved=1)
    past.execution(1, finished=95, alert=1)
    past.execution(2, finished=95, alert=2)
    past.execution(3, finished=95, playbook=2)
    past.execution(4, finished=101, playbook=2)
    assert let_go() == {"executions": 2}
    assert numbers(past.left("executions")) == [1, 3]


def test_deliveries_stay_as_long_as_a_later_message_builds_on_them(past: Past) -> None:
    past.alert(1, resolved=None)
    past.alert(2, resolved=1)
    past.alert(3, resolved=91)
    for number, alert in ((1, 1), (2, 2), (3, 3), (4, None)):
        past.delivery(number, finished=95, alert=alert)
    past.delivery(5, finished=None)
    past.delivery(6, finished=89)
    past.run("UPDATE deliveries SET carried_by = 4 WHERE id = 6")
    assert let_go() == {"deliveries": 2}
    assert past.left("deliveries") == [1, 2, 5, 6]


def test_a_full_batch_is_followed_by_another(past: Past, monkeypatch: pytest.MonkeyPatch) -> None:
    past.run(
        "INSERT INTO refusals (service_id, kind, since, until, count)"
        " SELECT 1, 'limit', :at, :at, 1 FROM generate_series(1, 12000)", at=ago(31)
    )  # fmt: skip
    assert let_go() == {"refusals": 12_000}


def test_a_row_that_somebody_works_on_holds_up_nobody(past: Past) -> None:
    for number in (1, 2):
        past.execution(number, finished=91)
    with past.engine.begin() as other:
        other.execute(text("SELECT 1 FROM executions WHERE id = :id FOR UPDATE"), {"id": uuid_of(1)})
        assert let_go() == {"executions": 1}
    assert numbers(past.left("executions")) == [1]


def test_a_table_that_cannot_be_cleaned_holds_up_none_of_the_others(past: Past) -> None:
    past.run("INSERT INTO refusals (service_id, kind, since, until, count) VALUES (1, 'limit', :at, :at, 1)",
             at=ago(31))  # fmt: skip
    past.delivery(1, finished=91)
    past.run("ALTER TABLE deliveries RENAME COLUMN finished_at TO elsewhere")
    try:
        assert let_go("deliveries") == {"refusals": 1}
    finally:
        past.run("ALTER TABLE deliveries RENAME COLUMN elsewhere TO finished_at")


def test_of_coverage_the_border_of_what_is_old_stays(past: Past) -> None:
    """Without it, nobody could tell since when Medic was deaf."""
    for days in (60, 50, 40, 32, 1):
        past.run("INSERT INTO coverage VALUES (gen_random_uuid(), :at, :at)", at=ago(days))
    assert let_go() == {"coverage": 2}
    assert past.left("coverage", "until") == [ago(40), ago(32), ago(1)]
    assert let_go() == {}


def test_days_snapshots_and_answers_have_their_own_ages(past: Past) -> None:
    for days in (401, 399, 1):
        past.run("INSERT INTO service_days VALUES (1, :day, 86400, 0, 0, 0, 1)", day=ago(days).date())
        past.run("INSERT INTO snapshots (at, actor, action, object_kind, object_name) VALUES (:at, 'a', 'b', 'c', 'd')",
                 at=ago(days))  # fmt: skip
        past.run("INSERT INTO idempotency_keys VALUES ('me', :key, 'x', 200, '{}', :at, :at)", key=str(days),
                 at=NOW - timedelta(hours=days) + timedelta(hours=2))  # fmt: skip
    assert let_go() == {"service_days": 1, "snapshots": 1, "idempotency_keys": 2}
    assert let_go(STATISTICS_RETENTION_DAYS="100", SNAPSHOT_RETENTION_DAYS="100") == {
        "service_days": 1,
        "snapshots": 1,
    }
    assert past.left("service_days", "day") == [ago(1).date()]


def test_of_the_old_runs_of_a_service_the_newest_hundred_stay(
    past: Past, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "SERVICES", 2)
    monkeypatch.setattr(retention, "BATCH", 30)
    past.run("INSERT INTO services (id, uuid, name, every_s) OVERRIDING SYSTEM VALUE"
             " SELECT n, gen_random_uuid(), 'job-' || n, 60 FROM generate_series(2, 5) n")  # fmt: skip
    ended = (
        "INSERT INTO runs (service_id, state, started_at, ended_at) SELECT :id, 'completed', :at - n * interval"
        " '1 minute', :at - n * interval '1 minute' FROM generate_series(1, :count) n"
    )
    past.run(ended, id=1, at=ago(40), count=150)  # all old: fifty go
    past.run(ended, id=3, at=ago(1), count=150)  # none old
    past.run(ended, id=5, at=ago(1), count=99)
    past.run(ended, id=5, at=ago(40), count=70)  # one of the newest hundred is old
    past.run("INSERT INTO runs (service_id, started_at) VALUES (1, :at)", at=ago(400))  # and still runs
    assert let_go() == {"runs": 50 + 69}
    assert past.run("SELECT service_id, count(*) FROM runs GROUP BY 1 ORDER BY 1") == [
        (1, 101),
        (3, 150),
        (5, 100),
    ]
    assert past.run("SELECT min(started_at) FROM runs WHERE state <> 'open' AND service_id = 1") == [
        (ago(40) - timedelta(minutes=100),)
    ]
    assert let_go() == {}


def test_what_deleted_services_left_behind_goes(past: Past, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "SERVICES", 2)
    monkeypatch.setattr(retention, "BATCH", 3)
    for service_id in (1, 7, 8, 9):
        past.run("INSERT INTO heartbeat_ids SELECT :id, n::text, n, :at FROM generate_series(1, 4) n",
                 id=service_id, at=ago(1))  # fmt: skip
        past.run("INSERT INTO refusals (service_id, kind, since, until, count) VALUES (:id, 'limit', :at, :at, 1)",
                 id=service_id, at=ago(1))  # fmt: skip
    assert let_go() == {"heartbeat_ids of deleted services": 12, "refusals of deleted services": 3}
    assert (past.left("heartbeat_ids", "service_id"), past.left("refusals", "service_id")) == ([1] * 4, [1])


OURS = 10**9
"""Ids that no entry of Medic's own gets here."""


def seal(past: Past, *ids: int, after: Head = GENESIS) -> Head:
    """Seal these entries into the chain, in this order."""
    head = after
    for entry_id in (OURS + number for number in ids):
        head = extend(KEY, head, {"id": entry_id})
        past.run("INSERT INTO audit_seals VALUES (:n, :id, :digest, :at)", n=head.n, id=entry_id,
                 digest=head.digest, at=NOW)  # fmt: skip
    return head


def entry(past: Past, number: int, days: float) -> None:
    past.run(
        "INSERT INTO audit_entries (id, at, actor_kind, actor, action, object_kind, object_id)"
        " OVERRIDING SYSTEM VALUE VALUES (:id, :at, 'key', 'a', 'service.create', 'service', 'web')",
        id=OURS + number,
        at=ago(days),
    )


def links(past: Past) -> list[tuple[int, Any, bytes]]:
    rows = past.run(
        "SELECT s.number, e.id, s.digest FROM audit_seals s JOIN audit_entries e ON e.id = s.entry_id ORDER BY 1"
    )
    return [(row.number, {"id": row.id}, bytes(row.digest)) for row in rows]


def test_the_audit_log_goes_up_to_a_checkpoint_from_which_it_is_still_verified(
    past: Past, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "BATCH", 2)
    # The chain follows the commits: an old entry may stand behind a younger one.
    for number, days in ((1, 200), (2, 150), (3, 91), (4, 10), (5, 95), (6, 1)):
        entry(past, number, days)
    head = seal(past, 1, 2, 3, 4, 5, 6)
    assert let_go() == {"audit_entries": 3}
    assert past.left("audit_seals", "number") == [3, 4, 5, 6]
    assert past.left("audit_entries")[-3:] == [OURS + 4, OURS + 5, OURS + 6]
    start = past.run("SELECT number, digest FROM audit_seals ORDER BY number LIMIT 1")[0]
    found = verify(KEY, links(past), start=Head(start.number, bytes(start.digest)), anchor=head)
    assert (found.broken_at, found.head) == (None, head)
    said = past.run("SELECT object_id, detail FROM audit_entries WHERE action = 'audit.let_go' ORDER BY id")
    assert said == [("2", {"entries": 2}), ("3", {"entries": 1})]
    assert let_go() == {}


def test_what_is_sealed_and_all_old_leaves_its_last_seal(past: Past) -> None:
    for number in (1, 2):
        entry(past, number, 100)
    head = seal(past, 1, 2)
    assert let_go() == {"audit_entries": 2}
    assert past.left("audit_seals", "number") == [2]
    entry(past, 3, 95)
    seal(past, 3, after=head)
    assert let_go() == {"audit_entries": 1}
    assert past.left("audit_seals", "number") == [3]


def test_an_audit_entry_that_is_not_sealed_stays_however_old_it_is(past: Past) -> None:
    entry(past, 1, 1000)
    assert let_go() == {}
    assert past.left("audit_entries") == [OURS + 1]


def test_an_answer_is_kept_for_the_days_that_are_asked_for(engine: Engine) -> None:
    request = Repeatable("me", "k", b"x")
    in_transaction(engine, lambda s: keep(s, request, Kept(201, {}), days=3, now=NOW))
    for hours, kept in ((71, Kept(201, {})), (72, None)):
        moment = NOW + timedelta(hours=hours)
        assert in_transaction(engine, lambda s, moment=moment: recall(s, request, now=moment)) == kept
