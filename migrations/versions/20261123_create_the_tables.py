"""create the tables

The code of the release before this one still runs while this migration does, and after it until every
process is replaced.  So: expand now (new tables, nullable columns, indexes), move data in batches by a
task, contract a release later.  Locks are waited for 4 s at the most; an index on a table that grows is
made CONCURRENTLY in an autocommit_block, with its reason.

Revision: 0001
Before: 
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql
revision = '0001'
down_revision = None
branch_labels = None
depends_on = None


# What was decided cannot be changed afterwards; retention removes old entries after a checkpoint, and says so.
APPEND_ONLY = """
CREATE FUNCTION audit_entries_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'DELETE' AND current_setting('medic.audit_retention', true) = 'on' THEN
        RETURN OLD;
    END IF;
    RAISE EXCEPTION 'audit entries are append-only' USING ERRCODE = 'insufficient_privilege';
END $$
"""


def upgrade() -> None:
    op.create_table('api_keys',
    sa.Column('id', sa.Text(), nullable=False),
    sa.Column('name', sa.Text(), nullable=False),
    sa.Column('digest', sa.LargeBinary(), nullable=False),
    sa.Column('scopes', postgresql.ARRAY(sa.Text()), nullable=False),
    sa.Column('service_patterns', postgresql.ARRAY(sa.Text()), nullable=True),
    sa.Column('created_by', sa.Text(), nullable=False),
    sa.Column('created_at', sa.DateTime(timezone=True), nullable=False),
    sa.Column('expires_at', sa.DateTime(timezone=True), nullable=True),
    sa.Column('revoked_at', sa.DateTime(timezone=True), nullable=True),
    sa.Column('last_used_at', sa.DateTime(timezone=True), nullable=True),
    sa.CheckConstraint("id ~ '^[0-9A-Za-z]{12}$'", name=op.f('ck_api_keys_id')),
    sa.CheckConstraint('cardinality(scopes) > 0', name=op.f('ck_api_keys_has_scope')),
    sa.CheckConstraint('length(name) BETWEEN 1 AND 128', name=op.f('ck_api_keys_name')),
    sa.CheckConstraint('octet_length(digest) = 32', name=op.f('ck_api_keys_digest')),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_api_keys'))
    )
    op.create_table('audit_entries',
    sa.Column('id', sa.BigInteger(), sa.Identity(always=False), nullable=False),
    sa.Column('at', sa.DateTime(timezone=True), nullable=False),
    sa.Column('actor_kind', sa.Text(), nullable=False),
    sa.Column('actor', sa.Text(), nullable=False),
    sa.Column('action', sa.Text(), nullable=False),
    sa.Column('object_kind', sa.Text(), nullable=False),
    sa.Column('object_id', sa.Text(), nullable=False),
    sa.Column('source', sa.Text(), nullable=True),
    sa.Column('request_id', sa.Text(), nullable=True),
    sa.Column('detail', postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'::jsonb"), nullable=False),
    sa.CheckConstraint("action ~ '^[a-z_]+[.][a-z_]+$'", name=op.f('ck_audit_entries_action')),
    sa.CheckConstraint("actor_kind IN ('key', 'hook', 'slack', 'trigger', 'medic', 'console', 'shell')", name=op.f('ck_audit_entries_actor_kind')),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_audit_entries'))
    )
    op.create_index('ix_audit_entries_at', 'audit_entries', ['at'], unique=False)
    op.create_index('ix_audit_entries_object', 'audit_entries', ['object_kind', 'object_id', 'id'], unique=False)
    op.create_table('audit_seals',
    sa.Column('number', sa.BigInteger(), autoincrement=False, nullable=False),
    sa.Column('entry_id', sa.BigInteger(), nullable=False),
    sa.Column('digest', sa.LargeBinary(), nullable=False),
    sa.Column('sealed_at', sa.DateTime(timezone=True), nullable=False),
    sa.CheckConstraint('octet_length(digest) = 32', name=op.f('ck_audit_seals_digest')),
    sa.PrimaryKeyConstraint('number', name=op.f('pk_audit_seals')),
    sa.UniqueConstraint('entry_id', name=op.f('uq_audit_seals_entry_id'))
    )
    op.create_table('calendars',
    sa.Column('id', sa.BigInteger(), sa.Identity(always=False), nullable=False),
    sa.Column('name', sa.Text(), nullable=False),
    sa.Column('timezone', sa.Text(), server_default='UTC', nullable=False),
    sa.Column('hours', postgresql.JSONB(astext_type=sa.Text()), nullable=False),
    sa.Column('holidays', postgresql.ARRAY(sa.Date()), server_default=sa.text("'{}'::date[]"), nullable=False),
    sa.Column('version', sa.BigInteger(), server_default='1', nullable=False),
    sa.Column('created_at', sa.DateTime(timezone=True), server_default=sa.text('now()'), nullable=False),
    sa.CheckConstraint("name ~ '^[a-z0-9][a-z0-9._-]{0,127}$'", name=op.f('ck_calendars_name')),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_calendars')),
    sa.UniqueConstraint('name', name=op.f('uq_calendars_name'))
    )
    op.create_table('canaries',
    sa.Column('key_id', sa.Text(), nullable=False),
    sa.Column('sealed', sa.LargeBinary(), nullable=False),
    sa.PrimaryKeyConstraint('key_id', name=op.f('pk_canaries'))
    )
    op.create_table('coverage',
    sa.Column('process', sa.Uuid(), nullable=False),
    sa.Column('since', sa.DateTime(timezone=True), nullable=False),
    sa.Column('until', sa.DateTime(timezone=True), nullable=False),
    sa.CheckConstraint('since <= until', name=op.f('ck_coverage_ordered')),
    sa.PrimaryKeyConstraint('process', 'since', name=op.f('pk_coverage'))
    )
    op.create_index('ix_coverage_until', 'coverage', ['until'], unique=False)
    op.create_table('heartbeat_ids',
    sa.Column('service_id', sa.BigInteger(), autoincrement=False, nullable=False),
    sa.Column('id', sa.Text(), nullable=False),
    sa.Column('heartbeat_id', sa.BigInteger(), nullable=False),
    sa.Column('received_at', sa.DateTime(timezone=True), nullable=False),
    sa.CheckConstraint('length(id) BETWEEN 1 AND 200', name=op.f('ck_heartbeat_ids_length')),
    sa.PrimaryKeyConstraint('service_id', 'id', name=op.f('pk_heartbeat_ids'))
    )
    op.create_index('ix_heartbeat_ids_received', 'heartbeat_ids', ['received_at'], unique=False)
    op.create_table('heartbeats',
    sa.Column('received_at', sa.DateTime(timezone=True), nullable=False),
    sa.Column('id', sa.BigInteger(), autoincrement=True, nullable=False),
    sa.Column('service_id', sa.BigInteger(), nullable=False),
    sa.Column('kind', sa.Text(), nullable=False),
    sa.Column('event_at', sa.DateTime(timezone=True), nullable=False),
    sa.Column('run_id', sa.Text(), nullable=True),
    sa.Column('duration_ms', sa.BigInteger(), nullable=True),
    sa.Column('exit_code', sa.SmallInteger(), nullable=True),
    sa.Column('message', sa.Text(), nullable=True),
    sa.Column('metrics', postgresql.JSONB(astext_type=sa.Text()), nullable=True),
    sa.CheckConstraint("kind IN ('ok', 'start', 'complete', 'fail', 'log')", name=op.f('ck_heartbeats_kind')),
    sa.CheckConstraint('duration_ms >= 0', name=op.f('ck_heartbeats_duration')),
    sa.CheckConstraint('event_at <= received_at', name=op.f('ck_heartbeats_event_not_later')),
    sa.PrimaryKeyConstraint('received_at', 'id', name=op.f('pk_heartbeats')),
    postgresql_partition_by='RANGE (received_at)'
    )
    op.create_index('ix_heartbeats_service_received', 'heartbeats', ['service_id', 'received_at'], unique=False)
    op.create_table('idempotency_keys',
    sa.Column('principal', sa.Text(), nullable=False),
    sa.Column('key', sa.Text(), nullable=False),
    sa.Column('request_digest', sa.LargeBinary(), nullable=False),
    sa.Column('status', sa.SmallInteger(), nullable=False),
    sa.Column('response', postgresql.JSONB(astext_type=sa.Text()), nullable=False),
    sa.Column('created_at', sa.DateTime(timezone=True), nullable=False),
    sa.Column('expires_at', sa.DateTime(timezone=True), nullable=False),
    sa.CheckConstraint('length(key) BETWEEN 1 AND 255', name=op.f('ck_idempotency_keys_key')),
    sa.PrimaryKeyConstraint('principal', 'key', name=op.f('pk_idempotency_keys'))
    )
    op.create_index('ix_idempotency_keys_expires', 'idempotency_keys', ['expires_at'], unique=False)
    op.create_table('playbooks',
    sa.Column('id', sa.BigInteger(), sa.Identity(always=False), nullable=False),
    sa.Column('name', sa.Text(), nullable=False),
    sa.Column('description', sa.Text(), server_default='', nullable=False),
    sa.Column('version', sa.Integer(), nullable=False),
    sa.Column('enabled', sa.Boolean(), server_default=sa.text('true'), nullable=False),
    sa.Column('created_at', sa.DateTime(timezone=True), server_default=sa.text('now()'), nullable=False),
    sa.Column('updated_at', sa.DateTime(timezone=True), server_default=sa.text('now()'), nullable=False),
    sa.Column('deleted_at', sa.DateTime(timezone=True), nullable=True),
    sa.CheckConstraint("name ~ '^[a-z0-9][a-z0-9._-]{0,127}$'", name=op.f('ck_playbooks_name')),
    sa.CheckConstraint('version >= 1', name=op.f('ck_playbooks_version')),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_playbooks'))
    )
    op.create_index('uq_playbooks_name_live', 'playbooks', ['name'], unique=True, postgresql_where=sa.text('deleted_at IS NULL'))
    op.create_table('scripts',
    sa.Column('id', sa.BigInteger(), sa.Identity(always=False), nullable=False),
    sa.Column('name', sa.Text(), nullable=False),
    sa.Column('description', sa.Text(), server_default='', nullable=False),
    sa.Column('version', sa.Integer(), nullable=False),
    sa.Column('created_at', sa.DateTime(timezone=True), server_default=sa.text('now()'), nullable=False),
    sa.Column('updated_at', sa.DateTime(timezone=True), server_default=sa.text('now()'), nullable=False),
    sa.CheckConstraint("name ~ '^[a-z0-9][a-z0-9._-]{0,127}$'", name=op.f('ck_scripts_name')),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_scripts')),
    sa.UniqueConstraint('name', name=op.f('uq_scripts_name'))
    )
    op.create_table('secrets',
    sa.Column('id', sa.BigInteger(), sa.Identity(always=False), nullable=False),
    sa.Column('name', sa.Text(), nullable=False),
    sa.Column('description', sa.Text(), server_default='', nullable=False),
    sa.Column('version', sa.Integer(), nullable=False),
    sa.Column('created_at', sa.DateTime(timezone=True), server_default=sa.text('now()'), nullable=False),
    sa.Column('updated_at', sa.DateTime(timezone=True), server_default=sa.text('now()'), nullable=False),
    sa.CheckConstraint("name ~ '^[A-Za-z_][A-Za-z0-9_]{0,127}$'", name=op.f('ck_secrets_name')),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_secrets')),
    sa.UniqueConstraint('name', name=op.f('uq_secrets_name'))
    )
    op.create_table('snapshots',
    sa.Column('id', sa.BigInteger(), sa.Identity(always=False), nullable=False),
    sa.Column('at', sa.DateTime(timezone=True), nullable=False),
    sa.Column('actor', sa.Text(), nullable=False),
    sa.Column('action', sa.Text(), nullable=False),
    sa.Column('object_kind', sa.Text(), nullable=False),
    sa.Column('object_name', sa.Text(), nullable=False),
    sa.Column('before', postgresql.JSONB(astext_type=sa.Text()), nullable=True),
    sa.Column('restored_at', sa.DateTime(timezone=True), nullable=True),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_snapshots'))
    )
    op.create_index('ix_snapshots_at', 'snapshots', ['at'], unique=False)
    op.create_index('ix_snapshots_object', 'snapshots', ['object_kind', 'object_name', 'id'], unique=False)
    op.create_table('stops',
    sa.Column('id', sa.BigInteger(), sa.Identity(always=False), nullable=False),
    sa.Column('reason', sa.Text(), nullable=False),
    sa.Column('stopped_at', sa.DateTime(timezone=True), nullable=False),
    sa.Column('stopped_by', sa.Text(), nullable=False),
    sa.Column('resumed_at', sa.DateTime(timezone=True), nullable=True),
    sa.Column('resumed_by', sa.Text(), nullable=True),
    sa.CheckConstraint('(resumed_at IS NULL) = (resumed_by IS NULL)', name=op.f('ck_stops_resumed_by_someone')),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_stops'))
    )
    op.create_index('uq_stops_open', 'stops', [sa.literal_column('(resumed_at IS NULL)')], unique=True, postgresql_where=sa.text('resumed_at IS NULL'))
    op.create_table('targets',
    sa.Column('id', sa.BigInteger(), sa.Identity(always=False), nullable=False),
    sa.Column('name', sa.Text(), nullable=False),
    sa.Column('kind', sa.Text(), nullable=False),
    sa.Column('config', postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'::jsonb"), nullable=False),
    sa.Column('sealed', sa.LargeBinary(), nullable=True),
    sa.Column('per_minute', sa.Integer(), server_default='30', nullable=False),
    sa.Column('disabled_at', sa.DateTime(timezone=True), nullable=True),
    sa.Column('disabled_reason', sa.Text(), nullable=True),
    sa.Column('version', sa.BigInteger(), server_default='1', nullable=False),
    sa.Column('created_at', sa.DateTime(timezone=True), server_default=sa.text('now()'), nullable=False),
    sa.CheckConstraint("kind IN ('slack', 'pagerduty', 'webhook', 'email', 'apprise')", name=op.f('ck_targets_kind')),
    sa.CheckConstraint("name ~ '^[a-z0-9][a-z0-9._-]{0,127}$'", name=op.f('ck_targets_name')),
    sa.CheckConstraint('(disabled_at IS NULL) = (disabled_reason IS NULL)', name=op.f('ck_targets_disabled_with_reason')),
    sa.CheckConstraint('per_minute >= 1', name=op.f('ck_targets_per_minute')),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_targets')),
    sa.UniqueConstraint('name', name=op.f('uq_targets_name'))
    )
    op.create_table('teams',
    sa.Column('id', sa.BigInteger(), sa.Identity(always=False), nullable=False),
    sa.Column('name', sa.Text(), nullable=False),
    sa.Column('description', sa.Text(), server_default='', nullable=False),
    sa.Column('ping_key_digest', sa.LargeBinary(), nullable=True),
    sa.Column('ping_key_creates', sa.Boolean(), server_default=sa.text('false'), nullable=False),
    sa.Column('version', sa.BigInteger(), server_default='1', nullable=False),
    sa.Column('created_at', sa.DateTime(timezone=True), server_default=sa.text('now()'), nullable=False),
    sa.CheckConstraint("name ~ '^[a-z0-9][a-z0-9._-]{0,127}$'", name=op.f('ck_teams_name')),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_teams')),
    sa.UniqueConstraint('name', name=op.f('uq_teams_name')),
    sa.UniqueConstraint('ping_key_digest', name=op.f('uq_teams_ping_key_digest'))
    )
    op.create_table('ticks',
    sa.Column('job', sa.Text(), nullable=False),
    sa.Column('last_at', sa.DateTime(timezone=True), nullable=False),
    sa.Column('last_duration_ms', sa.Integer(), nullable=True),
    sa.PrimaryKeyConstraint('job', name=op.f('pk_ticks'))
    )
    op.create_table('windows',
    sa.Column('id', sa.BigInteger(), sa.Identity(always=False), nullable=False),
    sa.Column('name', sa.Text(), nullable=False),
    sa.Column('reason', sa.Text(), server_default='', nullable=False),
    sa.Column('starts_at', sa.DateTime(timezone=True), nullable=True),
    sa.Column('ends_at', sa.DateTime(timezone=True), nullable=True),
    sa.Column('cron', sa.Text(), nullable=True),
    sa.Column('duration_s', sa.Integer(), nullable=True),
    sa.Column('timezone', sa.Text(), server_default='UTC', nullable=False),
    sa.Column('selector', postgresql.JSONB(astext_type=sa.Text()), nullable=False),
    sa.Column('notices', sa.Boolean(), server_default=sa.text('false'), nullable=False),
    sa.Column('due_at', sa.DateTime(timezone=True), nullable=True),
    sa.Column('created_by', sa.Text(), nullable=False),
    sa.Column('version', sa.BigInteger(), server_default='1', nullable=False),
    sa.Column('created_at', sa.DateTime(timezone=True), server_default=sa.text('now()'), nullable=False),
    sa.CheckConstraint("name ~ '^[a-z0-9][a-z0-9._-]{0,127}$'", name=op.f('ck_windows_name')),
    sa.CheckConstraint('(cron IS NULL) = (duration_s IS NULL)', name=op.f('ck_windows_cron_with_duration')),
    sa.CheckConstraint('cron IS NOT NULL OR (starts_at IS NOT NULL AND ends_at IS NOT NULL)', name=op.f('ck_windows_once_or_cron')),
    sa.CheckConstraint('duration_s >= 60', name=op.f('ck_windows_duration')),
    sa.CheckConstraint('ends_at > starts_at', name=op.f('ck_windows_ordered')),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_windows')),
    sa.UniqueConstraint('name', name=op.f('uq_windows_name'))
    )
    op.create_index('ix_windows_due', 'windows', ['due_at'], unique=False, postgresql_where=sa.text('due_at IS NOT NULL'))
    op.create_table('playbook_versions',
    sa.Column('playbook_id', sa.BigInteger(), nullable=False),
    sa.Column('version', sa.Integer(), autoincrement=False, nullable=False),
    sa.Column('source', sa.Text(), nullable=False),
    sa.Column('created_by', sa.Text(), nullable=False),
    sa.Column('created_at', sa.DateTime(timezone=True), nullable=False),
    sa.ForeignKeyConstraint(['playbook_id'], ['playbooks.id'], name=op.f('fk_playbook_versions_playbook_id'), ondelete='RESTRICT'),
    sa.PrimaryKeyConstraint('playbook_id', 'version', name=op.f('pk_playbook_versions'))
    )
    op.create_table('routes',
    sa.Column('id', sa.BigInteger(), sa.Identity(always=False), nullable=False),
    sa.Column('name', sa.Text(), nullable=False),
    sa.Column('position', sa.Integer(), server_default='100', nullable=False),
    sa.Column('is_default', sa.Boolean(), server_default=sa.text('false'), nullable=False),
    sa.Column('match', postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'::jsonb"), nullable=False),
    sa.Column('period', sa.Text(), server_default='always', nullable=False),
    sa.Column('calendar_id', sa.BigInteger(), nullable=True),
    sa.Column('mode', sa.Text(), server_default='notify_all', nullable=False),
    sa.Column('escalate_after_s', sa.Integer(), nullable=True),
    sa.Column('enabled', sa.Boolean(), server_default=sa.text('true'), nullable=False),
    sa.Column('version', sa.BigInteger(), server_default='1', nullable=False),
    sa.Column('created_at', sa.DateTime(timezone=True), server_default=sa.text('now()'), nullable=False),
    sa.CheckConstraint("mode IN ('notify_all', 'notify_until_success')", name=op.f('ck_routes_mode')),
    sa.CheckConstraint("name ~ '^[a-z0-9][a-z0-9._-]{0,127}$'", name=op.f('ck_routes_name')),
    sa.CheckConstraint("period = 'always' OR calendar_id IS NOT NULL", name=op.f('ck_routes_hours_need_calendar')),
    sa.CheckConstraint("period IN ('always', 'during_hours', 'after_hours')", name=op.f('ck_routes_period')),
    sa.CheckConstraint('escalate_after_s >= 60', name=op.f('ck_routes_escalate_after')),
    sa.ForeignKeyConstraint(['calendar_id'], ['calendars.id'], name=op.f('fk_routes_calendar_id'), ondelete='RESTRICT'),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_routes')),
    sa.UniqueConstraint('name', name=op.f('uq_routes_name'))
    )
    op.create_index(op.f('ix_routes_calendar_id'), 'routes', ['calendar_id'], unique=False)
    op.create_index('uq_routes_default', 'routes', ['is_default'], unique=True, postgresql_where=sa.text('is_default'))
    op.create_table('script_versions',
    sa.Column('script_id', sa.BigInteger(), nullable=False),
    sa.Column('version', sa.Integer(), autoincrement=False, nullable=False),
    sa.Column('interpreter', sa.Text(), nullable=False),
    sa.Column('content', sa.Text(), nullable=False),
    sa.Column('parameters', postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'::jsonb"), nullable=False),
    sa.Column('network', sa.Boolean(), server_default=sa.text('false'), nullable=False),
    sa.Column('created_by', sa.Text(), nullable=False),
    sa.Column('created_at', sa.DateTime(timezone=True), nullable=False),
    sa.CheckConstraint("interpreter IN ('bash', 'python')", name=op.f('ck_script_versions_interpreter')),
    sa.CheckConstraint('octet_length(content) <= 262144', name=op.f('ck_script_versions_content_size')),
    sa.ForeignKeyConstraint(['script_id'], ['scripts.id'], name=op.f('fk_script_versions_script_id'), ondelete='CASCADE'),
    sa.PrimaryKeyConstraint('script_id', 'version', name=op.f('pk_script_versions'))
    )
    op.create_table('secret_versions',
    sa.Column('secret_id', sa.BigInteger(), nullable=False),
    sa.Column('version', sa.Integer(), autoincrement=False, nullable=False),
    sa.Column('key_id', sa.Text(), nullable=False),
    sa.Column('sealed', sa.LargeBinary(), nullable=False),
    sa.Column('created_by', sa.Text(), nullable=False),
    sa.Column('created_at', sa.DateTime(timezone=True), nullable=False),
    sa.ForeignKeyConstraint(['secret_id'], ['secrets.id'], name=op.f('fk_secret_versions_secret_id'), ondelete='CASCADE'),
    sa.PrimaryKeyConstraint('secret_id', 'version', name=op.f('pk_secret_versions'))
    )
    op.create_table('services',
    sa.Column('id', sa.BigInteger(), sa.Identity(always=False), nullable=False),
    sa.Column('uuid', sa.Uuid(), nullable=False),
    sa.Column('name', sa.Text(), nullable=False),
    sa.Column('legacy_name', sa.Text(), nullable=True),
    sa.Column('description', sa.Text(), server_default='', nullable=False),
    sa.Column('every_s', sa.Integer(), nullable=True),
    sa.Column('cron', sa.Text(), nullable=True),
    sa.Column('on_calendar', sa.Text(), nullable=True),
    sa.Column('at_least', sa.Integer(), nullable=True),
    sa.Column('within_s', sa.Integer(), nullable=True),
    sa.Column('timezone', sa.Text(), server_default='UTC', nullable=False),
    sa.Column('grace_s', sa.Integer(), server_default='60', nullable=False),
    sa.Column('max_runtime_s', sa.Integer(), nullable=True),
    sa.Column('failure_threshold', sa.Integer(), server_default='1', nullable=False),
    sa.Column('recovery_threshold', sa.Integer(), server_default='1', nullable=False),
    sa.Column('renotify_every_s', sa.Integer(), nullable=True),
    sa.Column('priority', sa.Text(), server_default='p3', nullable=False),
    sa.Column('team_id', sa.BigInteger(), nullable=True),
    sa.Column('tags', postgresql.ARRAY(sa.Text()), server_default=sa.text("'{}'::text[]"), nullable=False),
    sa.Column('runbook_url', sa.Text(), nullable=True),
    sa.Column('playbook_policy', sa.Text(), server_default='all', nullable=False),
    sa.Column('paused_at', sa.DateTime(timezone=True), nullable=True),
    sa.Column('policy_version', sa.BigInteger(), server_default='1', nullable=False),
    sa.Column('policy_since', sa.DateTime(timezone=True), server_default=sa.text('now()'), nullable=False),
    sa.Column('created_at', sa.DateTime(timezone=True), server_default=sa.text('now()'), nullable=False),
    sa.Column('updated_at', sa.DateTime(timezone=True), server_default=sa.text('now()'), nullable=False),
    sa.CheckConstraint("name !~ '^[0-9]+$' AND name NOT IN ('batch', 'start', 'complete', 'fail', 'log')", name=op.f('ck_services_name_free')),
    sa.CheckConstraint("name ~ '^[a-z0-9][a-z0-9._-]{0,127}$'", name=op.f('ck_services_name')),
    sa.CheckConstraint("playbook_policy IN ('all', 'first')", name=op.f('ck_services_playbook_policy')),
    sa.CheckConstraint("priority IN ('p1', 'p2', 'p3', 'p4', 'p5')", name=op.f('ck_services_priority')),
    sa.CheckConstraint('(at_least IS NULL) = (within_s IS NULL)', name=op.f('ck_services_at_least_within')),
    sa.CheckConstraint('every_s >= 1 AND within_s >= 1 AND at_least >= 1', name=op.f('ck_services_schedule_positive')),
    sa.CheckConstraint('failure_threshold BETWEEN 1 AND 1000', name=op.f('ck_services_failure_threshold')),
    sa.CheckConstraint('grace_s >= 0 AND max_runtime_s >= 1 AND renotify_every_s >= 60', name=op.f('ck_services_durations')),
    sa.CheckConstraint('num_nonnulls(every_s, cron, on_calendar, at_least) = 1', name=op.f('ck_services_one_schedule')),
    sa.CheckConstraint('recovery_threshold BETWEEN 1 AND 1000', name=op.f('ck_services_recovery_threshold')),
    sa.ForeignKeyConstraint(['team_id'], ['teams.id'], name=op.f('fk_services_team_id'), ondelete='SET NULL'),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_services')),
    sa.UniqueConstraint('name', name=op.f('uq_services_name')),
    sa.UniqueConstraint('uuid', name=op.f('uq_services_uuid'))
    )
    op.create_index('ix_services_tags', 'services', ['tags'], unique=False, postgresql_using='gin')
    op.create_index(op.f('ix_services_team_id'), 'services', ['team_id'], unique=False)
    op.create_index('uq_services_legacy_name', 'services', [sa.literal_column('lower(legacy_name)')], unique=True, postgresql_where=sa.text('legacy_name IS NOT NULL'))
    op.create_table('triggers',
    sa.Column('id', sa.BigInteger(), sa.Identity(always=False), nullable=False),
    sa.Column('playbook_id', sa.BigInteger(), nullable=False),
    sa.Column('kind', sa.Text(), nullable=False),
    sa.Column('origin', sa.Text(), nullable=False),
    sa.Column('position', sa.Integer(), server_default='100', nullable=False),
    sa.Column('service_pattern', sa.Text(), nullable=True),
    sa.Column('tags', postgresql.ARRAY(sa.Text()), server_default=sa.text("'{}'::text[]"), nullable=False),
    sa.Column('priorities', postgresql.ARRAY(sa.Text()), server_default=sa.text("'{}'::text[]"), nullable=False),
    sa.Column('reasons', postgresql.ARRAY(sa.Text()), server_default=sa.text("'{}'::text[]"), nullable=False),
    sa.Column('consecutive_failures', sa.Integer(), server_default='1', nullable=False),
    sa.Column('cooldown_s', sa.Integer(), nullable=True),
    sa.Column('repeat_every_s', sa.Integer(), nullable=True),
    sa.Column('mode', sa.Text(), server_default='live', nullable=False),
    sa.Column('cron', sa.Text(), nullable=True),
    sa.Column('timezone', sa.Text(), nullable=True),
    sa.Column('variables', postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'::jsonb"), nullable=False),
    sa.Column('enabled', sa.Boolean(), server_default=sa.text('true'), nullable=False),
    sa.Column('due_at', sa.DateTime(timezone=True), nullable=True),
    sa.Column('version', sa.BigInteger(), server_default='1', nullable=False),
    sa.Column('created_at', sa.DateTime(timezone=True), server_default=sa.text('now()'), nullable=False),
    sa.CheckConstraint("(kind = 'schedule') = (cron IS NOT NULL)", name=op.f('ck_triggers_schedule_has_cron')),
    sa.CheckConstraint("kind <> 'alert' OR service_pattern IS NOT NULL", name=op.f('ck_triggers_alert_has_pattern')),
    sa.CheckConstraint("kind IN ('alert', 'hook', 'schedule')", name=op.f('ck_triggers_kind')),
    sa.CheckConstraint("mode IN ('live', 'shadow')", name=op.f('ck_triggers_mode')),
    sa.CheckConstraint("origin IN ('playbook', 'api')", name=op.f('ck_triggers_origin')),
    sa.CheckConstraint('consecutive_failures >= 1 AND cooldown_s >= 0 AND repeat_every_s >= 60', name=op.f('ck_triggers_numbers')),
    sa.ForeignKeyConstraint(['playbook_id'], ['playbooks.id'], name=op.f('fk_triggers_playbook_id'), ondelete='CASCADE'),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_triggers'))
    )
    op.create_index('ix_triggers_due', 'triggers', ['due_at'], unique=False, postgresql_where=sa.text('due_at IS NOT NULL'))
    op.create_index(op.f('ix_triggers_playbook_id'), 'triggers', ['playbook_id'], unique=False)
    op.create_index('uq_triggers_playbook_own', 'triggers', ['playbook_id'], unique=True, postgresql_where=sa.text("origin = 'playbook'"))
    op.create_table('alerts',
    sa.Column('id', sa.BigInteger(), sa.Identity(always=False), nullable=False),
    sa.Column('service_id', sa.BigInteger(), nullable=True),
    sa.Column('service_name', sa.Text(), nullable=False),
    sa.Column('priority', sa.Text(), nullable=False),
    sa.Column('reasons', postgresql.ARRAY(sa.Text()), nullable=False),
    sa.Column('opened_at', sa.DateTime(timezone=True), nullable=False),
    sa.Column('detected_at', sa.DateTime(timezone=True), nullable=False),
    sa.Column('acknowledged_at', sa.DateTime(timezone=True), nullable=True),
    sa.Column('acknowledged_by', sa.Text(), nullable=True),
    sa.Column('resolved_at', sa.DateTime(timezone=True), nullable=True),
    sa.Column('resolution', sa.Text(), nullable=True),
    sa.Column('resolved_by', sa.Text(), nullable=True),
    sa.Column('note', sa.Text(), nullable=True),
    sa.CheckConstraint("priority IN ('p1', 'p2', 'p3', 'p4', 'p5')", name=op.f('ck_alerts_priority')),
    sa.CheckConstraint("reasons <@ ARRAY['missed', 'failed', 'overrun', 'too_few']", name=op.f('ck_alerts_reasons')),
    sa.CheckConstraint("resolution IN ('recovered', 'run_ended', 'paused', 'deleted', 'manual', 'policy_changed')", name=op.f('ck_alerts_resolution')),
    sa.CheckConstraint('(acknowledged_at IS NULL) = (acknowledged_by IS NULL)', name=op.f('ck_alerts_acknowledged_by_someone')),
    sa.CheckConstraint('(resolved_at IS NULL) = (resolution IS NULL)', name=op.f('ck_alerts_resolution_with_time')),
    sa.CheckConstraint('resolved_at IS NOT NULL OR cardinality(reasons) > 0', name=op.f('ck_alerts_open_has_reason')),
    sa.CheckConstraint('resolved_at IS NOT NULL OR service_id IS NOT NULL', name=op.f('ck_alerts_open_has_service')),
    sa.ForeignKeyConstraint(['service_id'], ['services.id'], name=op.f('fk_alerts_service_id'), ondelete='SET NULL'),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_alerts'))
    )
    op.create_index('ix_alerts_resolved_at', 'alerts', ['resolved_at'], unique=False)
    op.create_index('ix_alerts_service', 'alerts', ['service_id', 'id'], unique=False)
    op.create_index('uq_alerts_service_open', 'alerts', ['service_id'], unique=True, postgresql_where=sa.text('resolved_at IS NULL'))
    op.create_table('hooks',
    sa.Column('id', sa.BigInteger(), sa.Identity(always=False), nullable=False),
    sa.Column('trigger_id', sa.BigInteger(), nullable=False),
    sa.Column('token_digest', sa.LargeBinary(), nullable=False),
    sa.Column('verification', sa.Text(), nullable=False),
    sa.Column('sealed_secret', sa.LargeBinary(), nullable=True),
    sa.Column('mapping', postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'::jsonb"), nullable=False),
    sa.Column('on_resolved', sa.Boolean(), server_default=sa.text('false'), nullable=False),
    sa.CheckConstraint("verification IN ('bearer', 'standard_webhooks')", name=op.f('ck_hooks_verification')),
    sa.ForeignKeyConstraint(['trigger_id'], ['triggers.id'], name=op.f('fk_hooks_trigger_id'), ondelete='CASCADE'),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_hooks')),
    sa.UniqueConstraint('token_digest', name=op.f('uq_hooks_token_digest')),
    sa.UniqueConstraint('trigger_id', name=op.f('uq_hooks_trigger_id'))
    )
    op.create_table('mutes',
    sa.Column('id', sa.BigInteger(), sa.Identity(always=False), nullable=False),
    sa.Column('service_id', sa.BigInteger(), nullable=False),
    sa.Column('reason', sa.Text(), nullable=False),
    sa.Column('created_by', sa.Text(), nullable=False),
    sa.Column('created_at', sa.DateTime(timezone=True), nullable=False),
    sa.Column('ends_at', sa.DateTime(timezone=True), nullable=False),
    sa.Column('ended_at', sa.DateTime(timezone=True), nullable=True),
    sa.Column('ended_by', sa.Text(), nullable=True),
    sa.Column('due_at', sa.DateTime(timezone=True), nullable=True),
    sa.CheckConstraint('(ended_at IS NULL) = (due_at IS NOT NULL)', name=op.f('ck_mutes_open_is_due')),
    sa.CheckConstraint('ends_at > created_at', name=op.f('ck_mutes_ordered')),
    sa.ForeignKeyConstraint(['service_id'], ['services.id'], name=op.f('fk_mutes_service_id'), ondelete='CASCADE'),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_mutes'))
    )
    op.create_index('ix_mutes_due', 'mutes', ['due_at'], unique=False, postgresql_where=sa.text('due_at IS NOT NULL'))
    op.create_index(op.f('ix_mutes_service_id'), 'mutes', ['service_id'], unique=False)
    op.create_table('route_targets',
    sa.Column('route_id', sa.BigInteger(), nullable=False),
    sa.Column('target_id', sa.BigInteger(), nullable=False),
    sa.Column('level', sa.Integer(), server_default='0', nullable=False),
    sa.Column('position', sa.Integer(), server_default='0', nullable=False),
    sa.CheckConstraint('level >= 0 AND position >= 0', name=op.f('ck_route_targets_order')),
    sa.ForeignKeyConstraint(['route_id'], ['routes.id'], name=op.f('fk_route_targets_route_id'), ondelete='CASCADE'),
    sa.ForeignKeyConstraint(['target_id'], ['targets.id'], name=op.f('fk_route_targets_target_id'), ondelete='CASCADE'),
    sa.PrimaryKeyConstraint('route_id', 'target_id', 'level', name=op.f('pk_route_targets'))
    )
    op.create_index(op.f('ix_route_targets_target_id'), 'route_targets', ['target_id'], unique=False)
    op.create_table('runs',
    sa.Column('id', sa.BigInteger(), sa.Identity(always=False), nullable=False),
    sa.Column('service_id', sa.BigInteger(), nullable=False),
    sa.Column('run_id', sa.Text(), nullable=True),
    sa.Column('state', sa.Text(), server_default='open', nullable=False),
    sa.Column('started_at', sa.DateTime(timezone=True), nullable=False),
    sa.Column('ended_at', sa.DateTime(timezone=True), nullable=True),
    sa.Column('duration_ms', sa.BigInteger(), nullable=True),
    sa.Column('exit_code', sa.SmallInteger(), nullable=True),
    sa.Column('start_id', sa.BigInteger(), nullable=True),
    sa.Column('end_id', sa.BigInteger(), nullable=True),
    sa.CheckConstraint("(state = 'open') = (ended_at IS NULL)", name=op.f('ck_runs_open_has_no_end')),
    sa.CheckConstraint("state IN ('open', 'completed', 'failed', 'lost')", name=op.f('ck_runs_state')),
    sa.CheckConstraint('duration_ms >= 0', name=op.f('ck_runs_duration')),
    sa.ForeignKeyConstraint(['service_id'], ['services.id'], name=op.f('fk_runs_service_id'), ondelete='CASCADE'),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_runs')),
    sa.UniqueConstraint('service_id', 'run_id', name=op.f('uq_runs_service_id_run_id'))
    )
    op.create_index('ix_runs_open', 'runs', ['service_id', 'started_at'], unique=False, postgresql_where=sa.text("state = 'open'"))
    op.create_index('ix_runs_service_started', 'runs', ['service_id', 'started_at'], unique=False)
    op.create_table('service_dependencies',
    sa.Column('service_id', sa.BigInteger(), nullable=False),
    sa.Column('parent_id', sa.BigInteger(), nullable=False),
    sa.CheckConstraint('service_id <> parent_id', name=op.f('ck_service_dependencies_not_itself')),
    sa.ForeignKeyConstraint(['parent_id'], ['services.id'], name=op.f('fk_service_dependencies_parent_id'), ondelete='CASCADE'),
    sa.ForeignKeyConstraint(['service_id'], ['services.id'], name=op.f('fk_service_dependencies_service_id'), ondelete='CASCADE'),
    sa.PrimaryKeyConstraint('service_id', 'parent_id', name=op.f('pk_service_dependencies'))
    )
    op.create_index(op.f('ix_service_dependencies_parent_id'), 'service_dependencies', ['parent_id'], unique=False)
    op.create_table('service_states',
    sa.Column('service_id', sa.BigInteger(), autoincrement=False, nullable=False),
    sa.Column('status', sa.Text(), server_default='new', nullable=False),
    sa.Column('due_at', sa.DateTime(timezone=True), nullable=True),
    sa.Column('quiet', sa.Boolean(), server_default=sa.text('false'), nullable=False),
    sa.Column('policy_version', sa.BigInteger(), server_default='1', nullable=False),
    sa.Column('last_success_at', sa.DateTime(timezone=True), nullable=True),
    sa.Column('last_signal_at', sa.DateTime(timezone=True), nullable=True),
    sa.Column('last_signal_kind', sa.Text(), nullable=True),
    sa.Column('failures', sa.Integer(), server_default='0', nullable=False),
    sa.Column('successes', sa.Integer(), server_default='0', nullable=False),
    sa.Column('folded_id', sa.BigInteger(), server_default='0', nullable=False),
    sa.Column('carried', postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'::jsonb"), nullable=False),
    sa.CheckConstraint("NOT quiet OR (status = 'up' AND failures = 0)", name=op.f('ck_service_states_quiet_is_up')),
    sa.CheckConstraint("status IN ('new', 'up', 'late', 'down', 'paused')", name=op.f('ck_service_states_status')),
    sa.CheckConstraint('failures >= 0 AND successes >= 0', name=op.f('ck_service_states_counters')),
    sa.ForeignKeyConstraint(['service_id'], ['services.id'], name=op.f('fk_service_states_service_id'), ondelete='CASCADE'),
    sa.PrimaryKeyConstraint('service_id', name=op.f('pk_service_states')),
    postgresql_with={'fillfactor': '50'}
    )
    op.create_index('ix_service_states_due', 'service_states', ['due_at'], unique=False, postgresql_where=sa.text('due_at IS NOT NULL'))
    op.create_table('alert_transitions',
    sa.Column('id', sa.BigInteger(), sa.Identity(always=False), nullable=False),
    sa.Column('alert_id', sa.BigInteger(), nullable=False),
    sa.Column('kind', sa.Text(), nullable=False),
    sa.Column('reason', sa.Text(), nullable=True),
    sa.Column('at', sa.DateTime(timezone=True), nullable=False),
    sa.Column('recorded_at', sa.DateTime(timezone=True), nullable=False),
    sa.Column('actor', sa.Text(), nullable=True),
    sa.Column('evidence', postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'::jsonb"), nullable=False),
    sa.CheckConstraint("kind IN ('opened', 'reason_joined', 'reason_cleared', 'renotified', 'acknowledged', 'escalated', 'resolved', 'corrected')", name=op.f('ck_alert_transitions_kind')),
    sa.CheckConstraint("reason IN ('missed', 'failed', 'overrun', 'too_few')", name=op.f('ck_alert_transitions_reason')),
    sa.ForeignKeyConstraint(['alert_id'], ['alerts.id'], name=op.f('fk_alert_transitions_alert_id'), ondelete='CASCADE'),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_alert_transitions'))
    )
    op.create_index(op.f('ix_alert_transitions_alert_id'), 'alert_transitions', ['alert_id'], unique=False)
    op.create_table('executions',
    sa.Column('id', sa.Uuid(), nullable=False),
    sa.Column('playbook_id', sa.BigInteger(), nullable=False),
    sa.Column('playbook_version', sa.Integer(), nullable=False),
    sa.Column('playbook_name', sa.Text(), nullable=False),
    sa.Column('service_id', sa.BigInteger(), nullable=True),
    sa.Column('service_name', sa.Text(), nullable=True),
    sa.Column('alert_id', sa.BigInteger(), nullable=True),
    sa.Column('trigger_id', sa.BigInteger(), nullable=True),
    sa.Column('started_by', sa.Text(), nullable=False),
    sa.Column('repeat_slot', sa.Integer(), server_default='0', nullable=False),
    sa.Column('mode', sa.Text(), server_default='live', nullable=False),
    sa.Column('variables', postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'::jsonb"), nullable=False),
    sa.Column('state', sa.Text(), nullable=False),
    sa.Column('waiting_for', sa.Text(), nullable=True),
    sa.Column('next_step', sa.Integer(), server_default='0', nullable=False),
    sa.Column('step_count', sa.Integer(), nullable=False),
    sa.Column('epoch', sa.Integer(), server_default='0', nullable=False),
    sa.Column('owner', sa.Uuid(), nullable=True),
    sa.Column('due_at', sa.DateTime(timezone=True), nullable=True),
    sa.Column('deadline_at', sa.DateTime(timezone=True), nullable=True),
    sa.Column('cancel_requested_at', sa.DateTime(timezone=True), nullable=True),
    sa.Column('cancel_requested_by', sa.Text(), nullable=True),
    sa.Column('redispatches', sa.Integer(), server_default='0', nullable=False),
    sa.Column('dispatched_at', sa.DateTime(timezone=True), nullable=True),
    sa.Column('last_task_id', sa.Text(), nullable=True),
    sa.Column('traceparent', sa.Text(), nullable=True),
    sa.Column('created_at', sa.DateTime(timezone=True), nullable=False),
    sa.Column('started_at', sa.DateTime(timezone=True), nullable=True),
    sa.Column('finished_at', sa.DateTime(timezone=True), nullable=True),
    sa.Column('error', postgresql.JSONB(astext_type=sa.Text()), nullable=True),
    sa.CheckConstraint("(state = 'waiting') = (waiting_for IS NOT NULL)", name=op.f('ck_executions_waits_for_something')),
    sa.CheckConstraint("(state IN ('completed', 'failed', 'cancelled')) = (due_at IS NULL)", name=op.f('ck_executions_live_is_due')),
    sa.CheckConstraint("(state IN ('completed', 'failed', 'cancelled')) = (finished_at IS NOT NULL)", name=op.f('ck_executions_final_has_end')),
    sa.CheckConstraint("mode IN ('live', 'shadow')", name=op.f('ck_executions_mode')),
    sa.CheckConstraint("owner IS NULL OR state = 'running'", name=op.f('ck_executions_owned_is_running')),
    sa.CheckConstraint("state IN ('pending_approval', 'running', 'waiting', 'in_doubt', 'completed', 'failed', 'cancelled')", name=op.f('ck_executions_state')),
    sa.CheckConstraint("waiting_for IN ('timer', 'condition', 'retry', 'concurrency', 'lock')", name=op.f('ck_executions_waiting_for')),
    sa.CheckConstraint('epoch >= 0 AND redispatches >= 0', name=op.f('ck_executions_counters')),
    sa.CheckConstraint('next_step BETWEEN 0 AND step_count', name=op.f('ck_executions_next_step')),
    sa.ForeignKeyConstraint(['alert_id'], ['alerts.id'], name=op.f('fk_executions_alert_id'), ondelete='SET NULL'),
    sa.ForeignKeyConstraint(['playbook_id', 'playbook_version'], ['playbook_versions.playbook_id', 'playbook_versions.version'], name=op.f('fk_executions_playbook_id_playbook_version'), ondelete='RESTRICT'),
    sa.ForeignKeyConstraint(['service_id'], ['services.id'], name=op.f('fk_executions_service_id'), ondelete='SET NULL'),
    sa.ForeignKeyConstraint(['trigger_id'], ['triggers.id'], name=op.f('fk_executions_trigger_id'), ondelete='SET NULL'),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_executions'))
    )
    op.create_index('ix_executions_alert', 'executions', ['alert_id'], unique=False)
    op.create_index('ix_executions_due', 'executions', ['due_at'], unique=False, postgresql_where=sa.text('due_at IS NOT NULL'))
    op.create_index('ix_executions_finished', 'executions', ['finished_at'], unique=False)
    op.create_index('ix_executions_playbook', 'executions', ['playbook_id', 'playbook_version'], unique=False)
    op.create_index('ix_executions_service', 'executions', ['service_id', 'created_at'], unique=False)
    op.create_index('ix_executions_trigger', 'executions', ['trigger_id'], unique=False)
    op.create_index('uq_executions_once_per_alert', 'executions', ['trigger_id', 'alert_id', 'repeat_slot'], unique=True, postgresql_where=sa.text('trigger_id IS NOT NULL AND alert_id IS NOT NULL'))
    op.create_table('approvals',
    sa.Column('id', sa.BigInteger(), sa.Identity(always=False), nullable=False),
    sa.Column('execution_id', sa.Uuid(), nullable=False),
    sa.Column('position', sa.Integer(), nullable=True),
    sa.Column('state', sa.Text(), server_default='pending', nullable=False),
    sa.Column('on_timeout', sa.Text(), nullable=True),
    sa.Column('message', sa.Text(), server_default='', nullable=False),
    sa.Column('plan', postgresql.JSONB(astext_type=sa.Text()), nullable=False),
    sa.Column('plan_digest', sa.Text(), nullable=False),
    sa.Column('requested_at', sa.DateTime(timezone=True), nullable=False),
    sa.Column('expires_at', sa.DateTime(timezone=True), nullable=True),
    sa.Column('decided_at', sa.DateTime(timezone=True), nullable=True),
    sa.Column('decided_by', sa.Text(), nullable=True),
    sa.Column('comment', sa.Text(), nullable=True),
    sa.CheckConstraint("(state = 'pending') = (decided_at IS NULL)", name=op.f('ck_approvals_decided_has_time')),
    sa.CheckConstraint("on_timeout IN ('approve', 'reject')", name=op.f('ck_approvals_on_timeout')),
    sa.CheckConstraint("state IN ('pending', 'approved', 'rejected', 'void')", name=op.f('ck_approvals_state')),
    sa.CheckConstraint('(decided_at IS NULL) = (decided_by IS NULL)', name=op.f('ck_approvals_decided_by_someone')),
    sa.CheckConstraint('(expires_at IS NULL) = (on_timeout IS NULL)', name=op.f('ck_approvals_expiry_has_effect')),
    sa.ForeignKeyConstraint(['execution_id'], ['executions.id'], name=op.f('fk_approvals_execution_id'), ondelete='CASCADE'),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_approvals')),
    sa.UniqueConstraint('execution_id', 'position', name=op.f('uq_approvals_execution_id_position'), postgresql_nulls_not_distinct=True)
    )
    op.create_index('uq_approvals_pending', 'approvals', ['execution_id'], unique=True, postgresql_where=sa.text("state = 'pending'"))
    op.create_table('deliveries',
    sa.Column('id', sa.BigInteger(), sa.Identity(always=False), nullable=False),
    sa.Column('uuid', sa.Uuid(), nullable=False),
    sa.Column('target_id', sa.BigInteger(), nullable=True),
    sa.Column('route_id', sa.BigInteger(), nullable=True),
    sa.Column('alert_id', sa.BigInteger(), nullable=True),
    sa.Column('transition_id', sa.BigInteger(), nullable=True),
    sa.Column('kind', sa.Text(), nullable=False),
    sa.Column('level', sa.Integer(), server_default='0', nullable=False),
    sa.Column('state', sa.Text(), server_default='pending', nullable=False),
    sa.Column('due_at', sa.DateTime(timezone=True), nullable=True),
    sa.Column('epoch', sa.Integer(), server_default='0', nullable=False),
    sa.Column('owner', sa.Uuid(), nullable=True),
    sa.Column('tries', sa.Integer(), server_default='0', nullable=False),
    sa.Column('payload', postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'::jsonb"), nullable=False),
    sa.Column('receipt', postgresql.JSONB(astext_type=sa.Text()), nullable=True),
    sa.Column('error', sa.Text(), nullable=True),
    sa.Column('created_at', sa.DateTime(timezone=True), nullable=False),
    sa.Column('finished_at', sa.DateTime(timezone=True), nullable=True),
    sa.CheckConstraint("(state = 'pending') = (due_at IS NOT NULL)", name=op.f('ck_deliveries_pending_is_due')),
    sa.CheckConstraint("(state = 'pending') = (finished_at IS NULL)", name=op.f('ck_deliveries_final_has_end')),
    sa.CheckConstraint("kind IN ('opened', 'reason_joined', 'renotified', 'acknowledged', 'escalated', 'resolved', 'notice', 'test')", name=op.f('ck_deliveries_kind')),
    sa.CheckConstraint("owner IS NULL OR state = 'pending'", name=op.f('ck_deliveries_owned_is_pending')),
    sa.CheckConstraint("state IN ('pending', 'delivered', 'failed', 'suppressed')", name=op.f('ck_deliveries_state')),
    sa.ForeignKeyConstraint(['alert_id'], ['alerts.id'], name=op.f('fk_deliveries_alert_id'), ondelete='CASCADE'),
    sa.ForeignKeyConstraint(['route_id'], ['routes.id'], name=op.f('fk_deliveries_route_id'), ondelete='SET NULL'),
    sa.ForeignKeyConstraint(['target_id'], ['targets.id'], name=op.f('fk_deliveries_target_id'), ondelete='SET NULL'),
    sa.ForeignKeyConstraint(['transition_id'], ['alert_transitions.id'], name=op.f('fk_deliveries_transition_id'), ondelete='CASCADE'),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_deliveries')),
    sa.UniqueConstraint('transition_id', 'target_id', 'level', name=op.f('uq_deliveries_transition_id_target_id_level')),
    sa.UniqueConstraint('uuid', name=op.f('uq_deliveries_uuid'))
    )
    op.create_index(op.f('ix_deliveries_alert_id'), 'deliveries', ['alert_id'], unique=False)
    op.create_index('ix_deliveries_due', 'deliveries', ['due_at'], unique=False, postgresql_where=sa.text('due_at IS NOT NULL'))
    op.create_index('ix_deliveries_finished', 'deliveries', ['finished_at'], unique=False)
    op.create_index(op.f('ix_deliveries_route_id'), 'deliveries', ['route_id'], unique=False)
    op.create_index(op.f('ix_deliveries_target_id'), 'deliveries', ['target_id'], unique=False)
    op.create_index(op.f('ix_deliveries_transition_id'), 'deliveries', ['transition_id'], unique=False)
    op.create_table('execution_steps',
    sa.Column('execution_id', sa.Uuid(), nullable=False),
    sa.Column('position', sa.Integer(), autoincrement=False, nullable=False),
    sa.Column('name', sa.Text(), nullable=False),
    sa.Column('type', sa.Text(), nullable=False),
    sa.Column('state', sa.Text(), server_default='pending', nullable=False),
    sa.Column('tries', sa.Integer(), server_default='0', nullable=False),
    sa.Column('losses', sa.Integer(), server_default='0', nullable=False),
    sa.Column('parked_at', sa.DateTime(timezone=True), nullable=True),
    sa.Column('check', postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=True),
    sa.Column('started_at', sa.DateTime(timezone=True), nullable=True),
    sa.Column('ended_at', sa.DateTime(timezone=True), nullable=True),
    sa.Column('output', postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=True),
    sa.Column('error', postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=True),
    sa.CheckConstraint("state IN ('pending', 'running', 'waiting', 'completed', 'failed', 'skipped', 'in_doubt', 'cancelled')", name=op.f('ck_execution_steps_state')),
    sa.CheckConstraint('tries >= 0 AND losses >= 0 AND position >= 0', name=op.f('ck_execution_steps_counters')),
    sa.ForeignKeyConstraint(['execution_id'], ['executions.id'], name=op.f('fk_execution_steps_execution_id'), ondelete='CASCADE'),
    sa.PrimaryKeyConstraint('execution_id', 'position', name=op.f('pk_execution_steps')),
    sa.UniqueConstraint('execution_id', 'name', name=op.f('uq_execution_steps_execution_id_name'))
    )
    op.create_table('locks',
    sa.Column('name', sa.Text(), nullable=False),
    sa.Column('execution_id', sa.Uuid(), nullable=False),
    sa.Column('taken_at', sa.DateTime(timezone=True), nullable=False),
    sa.ForeignKeyConstraint(['execution_id'], ['executions.id'], name=op.f('fk_locks_execution_id'), ondelete='CASCADE'),
    sa.PrimaryKeyConstraint('name', name=op.f('pk_locks'))
    )
    op.create_index(op.f('ix_locks_execution_id'), 'locks', ['execution_id'], unique=False)
    op.create_table('step_attempts',
    sa.Column('id', sa.BigInteger(), sa.Identity(always=False), nullable=False),
    sa.Column('execution_id', sa.Uuid(), nullable=False),
    sa.Column('position', sa.Integer(), nullable=False),
    sa.Column('epoch', sa.Integer(), nullable=False),
    sa.Column('owner', sa.Uuid(), nullable=False),
    sa.Column('task_id', sa.Text(), nullable=False),
    sa.Column('worker', sa.Text(), nullable=False),
    sa.Column('started_at', sa.DateTime(timezone=True), nullable=False),
    sa.Column('ended_at', sa.DateTime(timezone=True), nullable=True),
    sa.Column('outcome', sa.Text(), nullable=True),
    sa.Column('output', postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=True),
    sa.Column('error', postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=True),
    sa.CheckConstraint("outcome IN ('completed', 'failed', 'parked', 'skipped', 'lost', 'cancelled')", name=op.f('ck_step_attempts_outcome')),
    sa.CheckConstraint('(outcome IS NULL) = (ended_at IS NULL)', name=op.f('ck_step_attempts_outcome_with_end')),
    sa.ForeignKeyConstraint(['execution_id', 'position'], ['execution_steps.execution_id', 'execution_steps.position'], name=op.f('fk_step_attempts_execution_id_position'), ondelete='CASCADE'),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_step_attempts')),
    sa.UniqueConstraint('execution_id', 'position', 'epoch', name=op.f('uq_step_attempts_execution_id_position_epoch'))
    )
    op.execute(APPEND_ONLY)
    op.execute(
        "CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON audit_entries"
        " FOR EACH ROW EXECUTE FUNCTION audit_entries_append_only()"
    )
    op.execute(
        "CREATE TRIGGER append_only_whole BEFORE TRUNCATE ON audit_entries"
        " FOR EACH STATEMENT EXECUTE FUNCTION audit_entries_append_only()"
    )


def downgrade() -> None:
    op.drop_table('step_attempts')
    op.drop_index(op.f('ix_locks_execution_id'), table_name='locks')
    op.drop_table('locks')
    op.drop_table('execution_steps')
    op.drop_index(op.f('ix_deliveries_transition_id'), table_name='deliveries')
    op.drop_index(op.f('ix_deliveries_target_id'), table_name='deliveries')
    op.drop_index(op.f('ix_deliveries_route_id'), table_name='deliveries')
    op.drop_index('ix_deliveries_finished', table_name='deliveries')
    op.drop_index('ix_deliveries_due', table_name='deliveries', postgresql_where=sa.text('due_at IS NOT NULL'))
    op.drop_index(op.f('ix_deliveries_alert_id'), table_name='deliveries')
    op.drop_table('deliveries')
    op.drop_index('uq_approvals_pending', table_name='approvals', postgresql_where=sa.text("state = 'pending'"))
    op.drop_table('approvals')
    op.drop_index('uq_executions_once_per_alert', table_name='executions', postgresql_where=sa.text('trigger_id IS NOT NULL AND alert_id IS NOT NULL'))
    op.drop_index('ix_executions_trigger', table_name='executions')
    op.drop_index('ix_executions_service', table_name='executions')
    op.drop_index('ix_executions_playbook', table_name='executions')
    op.drop_index('ix_executions_finished', table_name='executions')
    op.drop_index('ix_executions_due', table_name='executions', postgresql_where=sa.text('due_at IS NOT NULL'))
    op.drop_index('ix_executions_alert', table_name='executions')
    op.drop_table('executions')
    op.drop_index(op.f('ix_alert_transitions_alert_id'), table_name='alert_transitions')
    op.drop_table('alert_transitions')
    op.drop_index('ix_service_states_due', table_name='service_states', postgresql_where=sa.text('due_at IS NOT NULL'))
    op.drop_table('service_states')
    op.drop_index(op.f('ix_service_dependencies_parent_id'), table_name='service_dependencies')
    op.drop_table('service_dependencies')
    op.drop_index('ix_runs_service_started', table_name='runs')
    op.drop_index('ix_runs_open', table_name='runs', postgresql_where=sa.text("state = 'open'"))
    op.drop_table('runs')
    op.drop_index(op.f('ix_route_targets_target_id'), table_name='route_targets')
    op.drop_table('route_targets')
    op.drop_index(op.f('ix_mutes_service_id'), table_name='mutes')
    op.drop_index('ix_mutes_due', table_name='mutes', postgresql_where=sa.text('due_at IS NOT NULL'))
    op.drop_table('mutes')
    op.drop_table('hooks')
    op.drop_index('uq_alerts_service_open', table_name='alerts', postgresql_where=sa.text('resolved_at IS NULL'))
    op.drop_index('ix_alerts_service', table_name='alerts')
    op.drop_index('ix_alerts_resolved_at', table_name='alerts')
    op.drop_table('alerts')
    op.drop_index('uq_triggers_playbook_own', table_name='triggers', postgresql_where=sa.text("origin = 'playbook'"))
    op.drop_index(op.f('ix_triggers_playbook_id'), table_name='triggers')
    op.drop_index('ix_triggers_due', table_name='triggers', postgresql_where=sa.text('due_at IS NOT NULL'))
    op.drop_table('triggers')
    op.drop_index('uq_services_legacy_name', table_name='services', postgresql_where=sa.text('legacy_name IS NOT NULL'))
    op.drop_index(op.f('ix_services_team_id'), table_name='services')
    op.drop_index('ix_services_tags', table_name='services', postgresql_using='gin')
    op.drop_table('services')
    op.drop_table('secret_versions')
    op.drop_table('script_versions')
    op.drop_index('uq_routes_default', table_name='routes', postgresql_where=sa.text('is_default'))
    op.drop_index(op.f('ix_routes_calendar_id'), table_name='routes')
    op.drop_table('routes')
    op.drop_table('playbook_versions')
    op.drop_index('ix_windows_due', table_name='windows', postgresql_where=sa.text('due_at IS NOT NULL'))
    op.drop_table('windows')
    op.drop_table('ticks')
    op.drop_table('teams')
    op.drop_table('targets')
    op.drop_index('uq_stops_open', table_name='stops', postgresql_where=sa.text('resumed_at IS NULL'))
    op.drop_table('stops')
    op.drop_index('ix_snapshots_object', table_name='snapshots')
    op.drop_index('ix_snapshots_at', table_name='snapshots')
    op.drop_table('snapshots')
    op.drop_table('secrets')
    op.drop_table('scripts')
    op.drop_index('uq_playbooks_name_live', table_name='playbooks', postgresql_where=sa.text('deleted_at IS NULL'))
    op.drop_table('playbooks')
    op.drop_index('ix_idempotency_keys_expires', table_name='idempotency_keys')
    op.drop_table('idempotency_keys')
    op.drop_index('ix_heartbeats_service_received', table_name='heartbeats')
    op.drop_table('heartbeats')
    op.drop_index('ix_heartbeat_ids_received', table_name='heartbeat_ids')
    op.drop_table('heartbeat_ids')
    op.drop_index('ix_coverage_until', table_name='coverage')
    op.drop_table('coverage')
    op.drop_table('canaries')
    op.drop_table('calendars')
    op.drop_table('audit_seals')
    op.drop_index('ix_audit_entries_object', table_name='audit_entries')
    op.drop_index('ix_audit_entries_at', table_name='audit_entries')
    op.drop_table('audit_entries')
    op.drop_table('api_keys')
    op.execute("DROP FUNCTION audit_entries_append_only()")
