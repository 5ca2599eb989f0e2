"""What the schema itself refuses: one statement against each CHECK and each unique rule."""

from __future__ import annotations

import psycopg2.errors
import pytest
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError, IntegrityError

ALERT = "INSERT INTO alerts (service_id, service_name, priority, reasons, opened_at, detected_at) VALUES "
ATTEMPT = (
    "INSERT INTO step_attempts (execution_id, position, epoch, owner, task_id, worker, started_at)"
    " SELECT execution_id, position, epoch, gen_random_uuid(), 't2', 'w', now() FROM step_attempts"
)
APPROVAL = "INSERT INTO approvals (execution_id, position, state, plan, plan_digest, requested_at, decided_at, decided_by)"
EXECUTION = (
    "INSERT INTO executions (id, playbook_id, playbook_version, playbook_name, trigger_id, alert_id, started_by, state,"
    " step_count, due_at, created_at) SELECT gen_random_uuid(), 1, 1, 'fix', 1, 1, 'me', 'running', 2, now(), now()"
)
NAMED = ("services", "teams", "calendars", "targets", "routes", "windows", "playbooks", "scripts")

REFUSED: list[tuple[str, str]] = [
    *((f"ck_{table}_name", f"UPDATE {table} SET name = 'Upper'") for table in NAMED),
    *((f"ck_{table}_name", f"UPDATE {table} SET name = '-begins'") for table in NAMED),
    *((f"ck_{table}_name", f"UPDATE {table} SET name = E'ends\\n'") for table in NAMED),
    *((f"ck_{table}_name", f"UPDATE {table} SET name = repeat('a', 129)") for table in NAMED),
    *(
        ("ck_services_name_free", f"UPDATE services SET name = '{name}' WHERE id = 1")
        for name in ("batch", "start", "complete", "fail", "log", "0", "255")
    ),
    ("uq_services_name", "UPDATE services SET name = 'web'"),
    ("uq_services_uuid", "UPDATE services SET uuid = '00000000-0000-0000-0000-000000000001'"),
    ("uq_services_legacy_name", "UPDATE services SET legacy_name = 'WEB' WHERE id = 2"),
    ("ck_services_one_schedule", "UPDATE services SET cron = '* * * * *'"),
    ("ck_services_one_schedule", "UPDATE services SET every_s = NULL"),
    ("ck_services_at_least_within", "UPDATE services SET within_s = 60"),
    ("ck_services_at_least_within", "UPDATE services SET every_s = NULL, at_least = 1"),
    ("ck_services_schedule_positive", "UPDATE services SET every_s = 0"),
    ("ck_services_durations", "UPDATE services SET grace_s = -1"),
    ("ck_services_durations", "UPDATE services SET max_runtime_s = 0"),
    ("ck_services_durations", "UPDATE services SET renotify_every_s = 59"),
    ("ck_services_failure_threshold", "UPDATE services SET failure_threshold = 0"),
    ("ck_services_recovery_threshold", "UPDATE services SET recovery_threshold = 1001"),
    ("ck_services_priority", "UPDATE services SET priority = 'p0'"),
    ("ck_services_playbook_policy", "UPDATE services SET playbook_policy = 'some'"),
    ("ck_service_dependencies_not_itself", "UPDATE service_dependencies SET parent_id = 1"),
    ("ck_service_states_status", "UPDATE service_states SET status = 'odd'"),
    ("ck_service_states_counters", "UPDATE service_states SET failures = -1"),
    ("ck_service_states_quiet_is_up", "UPDATE service_states SET quiet = true, status = 'down'"),
    ("ck_service_states_quiet_is_up", "UPDATE service_states SET quiet = true, status = 'up', failures = 1"),
    ("ck_heartbeats_kind", "UPDATE heartbeats SET kind = 'odd'"),
    ("ck_heartbeats_event_not_later", "UPDATE heartbeats SET event_at = received_at + '1 microsecond'"),
    ("ck_heartbeats_duration", "UPDATE heartbeats SET duration_ms = -1"),
    ("ck_heartbeat_ids_length", "UPDATE heartbeat_ids SET id = ''"),
    ("ck_heartbeat_ids_length", "UPDATE heartbeat_ids SET id = repeat('a', 201)"),
    ("pk_heartbeat_ids", "INSERT INTO heartbeat_ids VALUES (1, 'a', 2, now())"),
    ("uq_runs_service_id_run_id", "INSERT INTO runs (service_id, run_id, started_at) VALUES (1, 'r', now())"),
    ("ck_runs_state", "UPDATE runs SET state = 'odd', ended_at = now()"),
    ("ck_runs_open_has_no_end", "UPDATE runs SET ended_at = now()"),
    ("ck_runs_open_has_no_end", "UPDATE runs SET state = 'lost'"),
    ("ck_runs_duration", "UPDATE runs SET duration_ms = -1"),
    ("ck_refusals_kind", "INSERT INTO refusals (service_id, kind, since, until, count) VALUES (1, 'odd', now(), now(), 1)"),
    ("ck_refusals_ordered",
     "INSERT INTO refusals (service_id, kind, since, until, count) VALUES (1, 'limit', now(), now(), 0)"),
    ("ck_self_alerts_name", "INSERT INTO self_alerts (name, opened_at) VALUES ('Deaf', now())"),
    ("ck_self_alerts_ordered",
     "INSERT INTO self_alerts (name, opened_at, resolved_at) VALUES ('deaf', now(), now() - interval '1s')"),
    ("ck_alert_routes_level", "INSERT INTO alert_routes (alert_id, route_id, level, level_at) VALUES (1, 1, -1, now())"),
    ("ck_alerts_told", "UPDATE alerts SET told = '{odd}', told_at = now()"),
    ("ck_alerts_told_with_time", "UPDATE alerts SET told = '{missed}'"),
    ("ck_service_days_whole_day", "UPDATE service_days SET up_s = up_s + 1"),
    ("ck_service_days_whole_day", "UPDATE service_days SET down_s = down_s - 1"),
    ("ck_service_days_numbers", "UPDATE service_days SET up_s = 86401, down_s = -1, unknown_s = 0"),
    ("ck_service_days_numbers", "UPDATE service_days SET heartbeats = -1"),
    ("ck_coverage_ordered", "UPDATE coverage SET until = since - interval '1s'"),
    ("uq_alerts_service_open", f"{ALERT} (1, 'web', 'p3', '{{failed}}', now(), now())"),
    ("ck_alerts_open_has_service", f"{ALERT} (NULL, 'web', 'p3', '{{failed}}', now(), now())"),
    ("ck_alerts_open_has_service", "DELETE FROM services WHERE id = 1"),
    ("ck_alerts_open_has_reason", "UPDATE alerts SET reasons = '{}'"),
    ("ck_alerts_reasons", "UPDATE alerts SET reasons = '{odd}'"),
    ("ck_alerts_reasons", "UPDATE alerts SET reasons = ARRAY[NULL]::text[]"),
    ("ck_alerts_resolution_with_time", "UPDATE alerts SET resolved_at = now()"),
    ("ck_alerts_resolution_with_time", "UPDATE alerts SET resolution = 'manual'"),
    ("ck_alerts_resolution", "UPDATE alerts SET resolution = 'odd', resolved_at = now()"),
    ("ck_alerts_acknowledged_by_someone", "UPDATE alerts SET acknowledged_at = now()"),
    ("ck_alerts_priority", "UPDATE alerts SET priority = 'high'"),
    ("ck_alert_transitions_kind", "UPDATE alert_transitions SET kind = 'odd'"),
    ("ck_alert_transitions_reason", "UPDATE alert_transitions SET reason = 'odd'"),
    ("ck_targets_kind", "UPDATE targets SET kind = 'pigeon'"),
    ("ck_targets_per_minute", "UPDATE targets SET per_minute = 0"),
    ("ck_targets_disabled_with_reason", "UPDATE targets SET disabled_at = now()"),
    ("ck_routes_period", "UPDATE routes SET period = 'never', calendar_id = 1"),
    ("ck_routes_hours_need_calendar", "UPDATE routes SET period = 'after_hours'"),
    ("ck_routes_mode", "UPDATE routes SET mode = 'odd'"),
    ("ck_routes_escalate_after", "UPDATE routes SET escalate_after_s = 59"),
    ("uq_routes_default", "INSERT INTO routes (name, is_default) VALUES ('other', true)"),
    ("ck_route_targets_order", "UPDATE route_targets SET level = -1"),
    ("ck_deliveries_kind", "UPDATE deliveries SET kind = 'odd'"),
    ("ck_deliveries_state", "UPDATE deliveries SET state = 'odd', due_at = NULL, finished_at = now()"),
    ("ck_deliveries_pending_is_due", "UPDATE deliveries SET due_at = NULL"),
    ("ck_deliveries_pending_is_due", "UPDATE deliveries SET state = 'failed', finished_at = now()"),
    ("ck_deliveries_final_has_end", "UPDATE deliveries SET state = 'failed', due_at = NULL"),
    ("ck_deliveries_owned_is_pending",
     "UPDATE deliveries SET owner = gen_random_uuid(), state = 'failed', due_at = NULL, finished_at = now()"),
    ("uq_deliveries_transition_id_target_id_level",
     ("INSERT INTO deliveries (uuid, target_id, transition_id, kind, due_at, created_at)"
     " VALUES (gen_random_uuid(), 1, 1, 'opened', now(), now())")),
    ("uq_deliveries_uuid",
     ("INSERT INTO deliveries (uuid, kind, due_at, created_at)"
     " VALUES ('00000000-0000-0000-0000-000000000001', 'test', now(), now())")),
    ("ck_windows_once_or_cron", "UPDATE windows SET ends_at = NULL"),
    ("ck_windows_cron_with_duration", "UPDATE windows SET cron = '* * * * *'"),
    ("ck_windows_ordered", "UPDATE windows SET ends_at = starts_at"),
    ("ck_windows_duration", "UPDATE windows SET cron = '* * * * *', duration_s = 59"),
    ("ck_mutes_ordered", "UPDATE mutes SET ends_at = created_at"),
    ("ck_mutes_open_is_due", "UPDATE mutes SET due_at = NULL"),
    ("ck_mutes_open_is_due", "UPDATE mutes SET ended_at = now()"),
    ("uq_playbooks_name_live", "INSERT INTO playbooks (name, version) VALUES ('fix', 1)"),
    ("ck_playbooks_version", "UPDATE playbooks SET version = 0"),
    ("uq_triggers_playbook_own", "UPDATE triggers SET origin = 'playbook'"),
    ("ck_triggers_kind", "UPDATE triggers SET kind = 'odd'"),
    ("ck_triggers_origin", "UPDATE triggers SET origin = 'odd' WHERE id = 1"),
    ("ck_triggers_mode", "UPDATE triggers SET mode = 'odd'"),
    ("ck_triggers_schedule_has_cron", "UPDATE triggers SET kind = 'schedule'"),
    ("ck_triggers_schedule_has_cron", "UPDATE triggers SET cron = '* * * * *'"),
    ("ck_triggers_alert_has_pattern", "UPDATE triggers SET service_pattern = NULL"),
    ("ck_triggers_numbers", "UPDATE triggers SET consecutive_failures = 0"),
    ("ck_triggers_numbers", "UPDATE triggers SET repeat_every_s = 59"),
    ("ck_hooks_verification", "UPDATE hooks SET verification = 'none'"),
    ("ck_hooks_with_secret", "UPDATE hooks SET secret_digest = NULL"),
    ("ck_hooks_with_secret", "UPDATE hooks SET sealed_secret = 'x'"),
    ("ck_hooks_with_secret", "UPDATE hooks SET verification = 'standard_webhooks'"),
    ("uq_hooks_trigger_id",
     "INSERT INTO hooks (trigger_id, token_digest, verification, secret_digest) VALUES (1, 'y', 'bearer', 'x')"),
    ("uq_hooks_token_digest",
     "INSERT INTO hooks (trigger_id, token_digest, verification, secret_digest) VALUES (2, 'x', 'bearer', 'x')"),
    ("ck_hook_groups_status", "UPDATE hook_groups SET status = 'odd'"),
    ("ck_triggers_catch_up", "UPDATE triggers SET catch_up_s = 59"),
    ("ck_trigger_occurrences_outcome", "UPDATE trigger_occurrences SET outcome = 'odd'"),
    ("ck_trigger_occurrences_started_has_execution", "UPDATE trigger_occurrences SET outcome = 'started'"),
    ("ck_script_versions_interpreter", "UPDATE script_versions SET interpreter = 'perl'"),
    ("ck_script_versions_content_size", "UPDATE script_versions SET content = repeat('x', 262145)"),
    ("ck_executions_live_is_due", "UPDATE executions SET due_at = NULL"),
    ("ck_executions_live_is_due", "UPDATE executions SET state = 'completed', finished_at = now()"),
    ("ck_executions_final_has_end", "UPDATE executions SET state = 'completed', due_at = NULL"),
    ("ck_executions_owned_is_running",
     "UPDATE executions SET owner = gen_random_uuid(), state = 'waiting', waiting_for = 'timer'"),
    ("ck_executions_waits_for_something", "UPDATE executions SET state = 'waiting'"),
    ("ck_executions_waits_for_something", "UPDATE executions SET waiting_for = 'timer'"),
    ("ck_executions_waiting_for", "UPDATE executions SET state = 'waiting', waiting_for = 'luck'"),
    ("ck_executions_state", "UPDATE executions SET state = 'odd'"),
    ("ck_executions_next_step", "UPDATE executions SET next_step = 3"),
    ("ck_executions_counters", "UPDATE executions SET epoch = -1"),
    ("ck_executions_mode", "UPDATE executions SET mode = 'odd'"),
    ("uq_executions_once_per_alert", EXECUTION),
    ("ck_execution_steps_state", "UPDATE execution_steps SET state = 'odd'"),
    ("ck_execution_steps_counters", "UPDATE execution_steps SET tries = -1"),
    ("uq_execution_steps_execution_id_name",
     ("INSERT INTO execution_steps (execution_id, position, name, type)"
     " SELECT execution_id, 1, name, type FROM execution_steps")),
    ("uq_step_attempts_execution_id_position_epoch", ATTEMPT),
    ("ck_step_attempts_outcome", "UPDATE step_attempts SET outcome = 'odd', ended_at = now()"),
    ("ck_step_attempts_outcome_with_end", "UPDATE step_attempts SET outcome = 'completed'"),
    ("uq_approvals_pending",
     f"{APPROVAL} SELECT execution_id, 1, 'pending', plan, plan_digest, now(), NULL, NULL FROM approvals"),
    ("uq_approvals_execution_id_position",
     f"{APPROVAL} SELECT execution_id, 0, 'approved', plan, plan_digest, now(), now(), 'me' FROM approvals"),
    ("uq_approvals_execution_id_position",
     (f"{APPROVAL} SELECT execution_id, NULL, 'void', plan, plan_digest, now(), now(), 'me'"
     " FROM approvals, generate_series(1, 2)")),
    ("ck_approvals_state", "UPDATE approvals SET state = 'odd', decided_at = now(), decided_by = 'me'"),
    ("ck_approvals_on_timeout", "UPDATE approvals SET on_timeout = 'odd', expires_at = now()"),
    ("ck_approvals_expiry_has_effect", "UPDATE approvals SET expires_at = now()"),
    ("ck_approvals_decided_has_time", "UPDATE approvals SET state = 'approved'"),
    ("ck_approvals_decided_by_someone", "UPDATE approvals SET state = 'approved', decided_at = now()"),
    ("pk_locks", "INSERT INTO locks SELECT * FROM locks"),
    ("ck_api_keys_id", "UPDATE api_keys SET id = 'abc'"),
    ("ck_api_keys_digest", "UPDATE api_keys SET digest = 'x'"),
    ("ck_api_keys_has_scope", "UPDATE api_keys SET scopes = '{}'"),
    ("ck_api_keys_name", "UPDATE api_keys SET name = ''"),
    ("ck_api_keys_replaces_another", "UPDATE api_keys SET replaces = id"),
    ("ck_slack_users_slack_id",
     ("INSERT INTO slack_users (slack_id, key_id, created_by, created_at)"
      " SELECT 'lower', id, 'me', now() FROM api_keys")),
    ("uq_api_keys_replaces",
     ("INSERT INTO api_keys (id, name, digest, scopes, created_by, created_at, replaces)"
     " SELECT n || substr(id, 2), name, digest, scopes, created_by, created_at, id"
     " FROM api_keys, unnest(ARRAY['y', 'z']) n")),
    ("ck_secrets_name", "UPDATE secrets SET name = '1x'"),
    ("uq_secrets_name", "INSERT INTO secrets (name, version) VALUES ('TOKEN', 1)"),
    ("ck_audit_entries_action",
     ("INSERT INTO audit_entries (at, actor_kind, actor, action, object_kind, object_id)"
     " VALUES (now(), 'key', 'a', 'odd', 'x', 'y')")),
    ("ck_audit_entries_actor_kind",
     ("INSERT INTO audit_entries (at, actor_kind, actor, action, object_kind, object_id)"
     " VALUES (now(), 'ghost', 'a', 'a.b', 'x', 'y')")),
    ("ck_audit_seals_digest", "UPDATE audit_seals SET digest = 'x'"),
    ("uq_audit_seals_entry_id", "INSERT INTO audit_seals SELECT 2, entry_id, digest, sealed_at FROM audit_seals"),
    ("ck_idempotency_keys_key", "UPDATE idempotency_keys SET key = ''"),
    ("pk_idempotency_keys", "INSERT INTO idempotency_keys SELECT * FROM idempotency_keys"),
    ("uq_stops_open", "INSERT INTO stops (reason, stopped_at, stopped_by) VALUES ('again', now(), 'me')"),
    ("ck_stops_resumed_by_someone", "UPDATE stops SET resumed_at = now()"),
    ("uq_teams_name", "UPDATE teams SET name = 'same'"),
    ("uq_teams_ping_key_digest", "UPDATE teams SET ping_key_digest = 'same'"),
    ("uq_calendars_name", "INSERT INTO calendars (name, hours) VALUES ('office', '{}')"),
    ("uq_targets_name", "INSERT INTO targets (name, kind) VALUES ('chat', 'email')"),
    ("uq_routes_name", "INSERT INTO routes (name) VALUES ('all')"),
    ("uq_scripts_name", "INSERT INTO scripts (name, version) VALUES ('run', 1)"),
    ("uq_windows_name",
     ("INSERT INTO windows (name, starts_at, ends_at, selector, created_by)"
     " VALUES ('patch', now(), now() + '1h', '{}', 'me')")),
]  # fmt: skip


def test_each_invariant_refuses_what_breaks_it(filled: Connection) -> None:
    wrong = []
    for constraint, statement in REFUSED:
        nested = filled.begin_nested()
        try:
            filled.execute(text(statement))
        except IntegrityError as error:
            found = error.orig.diag.constraint_name  # type: ignore[union-attr]
            if found != constraint:
                wrong.append(f"{statement!r}: {found} spoke in the place of {constraint}")
        else:
            wrong.append(f"{statement!r} is accepted: {constraint} did not speak")
        nested.rollback()
    assert wrong == []


def test_every_invariant_of_the_schema_is_tried_above(engine: Engine) -> None:
    with engine.connect() as connection:
        declared = connection.execute(
            text(
                "SELECT conname FROM pg_constraint WHERE contype IN ('c', 'u')"
                " AND connamespace = 'public'::regnamespace AND conrelid NOT IN (SELECT inhrelid FROM pg_inherits)"
                " UNION SELECT indexrelid::regclass::text FROM pg_index WHERE indisunique AND indpred IS NOT NULL"
                " AND indrelid::regclass::text NOT LIKE 'pg_%'"
            )
        ).scalars()
        assert set(declared) - {constraint for constraint, _ in REFUSED} == set()


@pytest.mark.parametrize(
    "statement",
    ["UPDATE audit_entries SET actor = 'b'", "DELETE FROM audit_entries", "TRUNCATE audit_entries"],
)
def test_audit_entries_are_append_only(filled: Connection, statement: str) -> None:
    with pytest.raises(DBAPIError) as caught:
        filled.execute(text(statement))
    assert isinstance(caught.value.orig, psycopg2.errors.InsufficientPrivilege)


def test_retention_may_delete_audit_entries_when_it_says_so_and_nothing_else(filled: Connection) -> None:
    filled.execute(text("SET LOCAL medic.audit_retention = 'on'"))
    with pytest.raises(DBAPIError), filled.begin_nested():
        filled.execute(text("UPDATE audit_entries SET actor = 'b'"))
    assert filled.execute(text("DELETE FROM audit_entries")).rowcount == 1


def test_what_ran_keeps_its_playbook_version(filled: Connection) -> None:
    with pytest.raises(IntegrityError):
        filled.execute(text("DELETE FROM playbook_versions"))


def test_a_deleted_service_leaves_its_history(filled: Connection) -> None:
    filled.execute(text("UPDATE alerts SET resolved_at = now(), resolution = 'deleted'"))
    filled.execute(text("DELETE FROM services WHERE id = 1"))
    assert filled.execute(text("SELECT service_id, service_name FROM alerts")).one() == (None, "web")
    for table in ("runs", "mutes", "service_dependencies"):
        assert filled.execute(text(f"SELECT count(*) FROM {table}")).scalar() == 0
    assert filled.execute(text("SELECT count(*) FROM heartbeats")).scalar() == 1
