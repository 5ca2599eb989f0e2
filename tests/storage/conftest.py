from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import Connection, Engine, text

from medic import settings as settings_
from medic.db import engine as process_engine

# One valid row of each table.
VALID = """
INSERT INTO teams (id, name, ping_key_digest) OVERRIDING SYSTEM VALUE VALUES (1, 'ops', 'x'), (2, 'dev', 'y');
INSERT INTO services (id, uuid, name, every_s, legacy_name) OVERRIDING SYSTEM VALUE VALUES
  (1, '00000000-0000-0000-0000-000000000001', 'web', 60, 'Web'),
  (2, '00000000-0000-0000-0000-000000000002', 'db', 60, 'Db');
INSERT INTO service_states (service_id) VALUES (1), (2);
INSERT INTO service_dependencies VALUES (1, 2);
INSERT INTO heartbeats (received_at, service_id, kind, event_at) VALUES (now(), 1, 'ok', now());
INSERT INTO heartbeat_ids VALUES (1, 'a', 1, now());
INSERT INTO runs (service_id, run_id, started_at) VALUES (1, 'r', now());
INSERT INTO coverage VALUES ('00000000-0000-0000-0000-000000000001', now(), now());
INSERT INTO service_days VALUES (1, '2026-11-23', 86000, 300, 100, 1, 288);
INSERT INTO alerts (id, service_id, service_name, priority, reasons, opened_at, detected_at) OVERRIDING SYSTEM VALUE
  VALUES (1, 1, 'web', 'p3', '{missed}', now(), now());
INSERT INTO alert_transitions (id, alert_id, kind, reason, at, recorded_at) OVERRIDING SYSTEM VALUE
  VALUES (1, 1, 'opened', 'missed', now(), now());
INSERT INTO calendars (id, name, hours) OVERRIDING SYSTEM VALUE VALUES (1, 'office', '{}');
INSERT INTO targets (id, name, kind) OVERRIDING SYSTEM VALUE VALUES (1, 'chat', 'slack');
INSERT INTO routes (id, name, is_default) OVERRIDING SYSTEM VALUE VALUES (1, 'all', true);
INSERT INTO route_targets VALUES (1, 1);
INSERT INTO deliveries (uuid, target_id, transition_id, kind, due_at, created_at)
  VALUES ('00000000-0000-0000-0000-000000000001', 1, 1, 'opened', now(), now());
INSERT INTO windows (name, starts_at, ends_at, selector, created_by) VALUES ('patch', now(), now() + '1h', '{}', 'me');
INSERT INTO mutes (service_id, reason, created_by, created_at, ends_at, due_at)
  VALUES (1, 'x', 'me', now(), now() + '1h', now());
INSERT INTO playbooks (id, name, version) OVERRIDING SYSTEM VALUE VALUES (1, 'fix', 1);
INSERT INTO playbook_versions VALUES (1, 1, 'x', 'me', now());
INSERT INTO triggers (id, playbook_id, kind, origin, service_pattern) OVERRIDING SYSTEM VALUE
  VALUES (1, 1, 'alert', 'playbook', '*'), (2, 1, 'alert', 'api', '*');
INSERT INTO trigger_occurrences VALUES (1, now(), 'missed');
INSERT INTO hooks (id, trigger_id, token_digest, verification, secret_digest) OVERRIDING SYSTEM VALUE
  VALUES (1, 1, 'x', 'bearer', 'x');
INSERT INTO hook_groups VALUES (1, 'x', 'firing', now());
INSERT INTO scripts (id, name, version) OVERRIDING SYSTEM VALUE VALUES (1, 'run', 1);
INSERT INTO script_versions (script_id, version, interpreter, content, created_by, created_at)
  VALUES (1, 1, 'bash', 'true', 'me', now());
INSERT INTO executions (id, playbook_id, playbook_version, playbook_name, trigger_id, alert_id, started_by, state,
                        step_count, due_at, created_at)
  VALUES ('00000000-0000-0000-0000-000000000001', 1, 1, 'fix', 1, 1, 'me', 'running', 2, now(), now());
INSERT INTO execution_steps (execution_id, position, name, type)
  VALUES ('00000000-0000-0000-0000-000000000001', 0, 'a', 'wait');
INSERT INTO step_attempts (execution_id, position, epoch, owner, task_id, worker, started_at)
  VALUES ('00000000-0000-0000-0000-000000000001', 0, 1, '00000000-0000-0000-0000-000000000001', 't', 'w', now());
INSERT INTO approvals (execution_id, position, plan, plan_digest, requested_at)
  VALUES ('00000000-0000-0000-0000-000000000001', 0, '{}', 'x', now());
INSERT INTO locks VALUES ('host', '00000000-0000-0000-0000-000000000001', now());
INSERT INTO api_keys (id, name, digest, scopes, created_by, created_at)
  VALUES ('abcdefABCDEF', 'k', repeat('x', 32)::bytea, '{admin}', 'me', now());
INSERT INTO secrets (id, name, version) OVERRIDING SYSTEM VALUE VALUES (1, 'TOKEN', 1);
INSERT INTO secret_versions VALUES (1, 1, 'k', 'x', 'me', now());
INSERT INTO audit_entries (id, at, actor_kind, actor, action, object_kind, object_id) OVERRIDING SYSTEM VALUE
  VALUES (1, now(), 'key', 'a', 'service.create', 'service', 'web');
INSERT INTO audit_seals VALUES (1, 1, repeat('x', 32)::bytea, now());
INSERT INTO idempotency_keys VALUES ('me', 'k', 'x', 200, '{}', now(), now());
INSERT INTO stops (reason, stopped_at, stopped_by) VALUES ('drill', now(), 'me');
"""


@pytest.fixture
def filled(engine: Engine) -> Iterator[Connection]:
    """A valid row in each table; gone afterwards."""
    with engine.connect() as connection:
        connection.execute(text(VALID))
        # Numbers that the rows above have are not given again.
        connection.execute(
            text(
                "SELECT setval(sequencename::regclass, 1000) FROM pg_sequences WHERE coalesce(last_value, 0) < 1000"
            )
        )
        yield connection
        connection.rollback()


@pytest.fixture
def here(environ: dict[str, str], engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """This process as a worker."""
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("HEARTBEAT_RETENTION_DAYS", "30")
    settings_.current.cache_clear()
    process_engine.cache_clear()
    yield
    process_engine().dispose()
    settings_.current.cache_clear()
    process_engine.cache_clear()
