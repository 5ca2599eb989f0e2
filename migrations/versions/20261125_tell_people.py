"""tell people: what was told of an alert and by which routes, when Medic could not hear, what it refused

The code of the release before this one still runs while this migration does, and after it until every
process is replaced.  So: expand now (new tables, columns with a constant default, indexes).  Locks are waited
for 4 s at the most; deliveries grow, so their indexes are made CONCURRENTLY in an autocommit_block.

Revision: 0003
Before: 0002
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = '0003'
down_revision = '0002'
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column('alerts', sa.Column('told', postgresql.ARRAY(sa.Text()), server_default=sa.text("'{}'::text[]"), nullable=False))
    op.add_column('alerts', sa.Column('told_at', sa.DateTime(timezone=True), nullable=True))
    op.add_column('alerts', sa.Column('held', postgresql.JSONB(astext_type=sa.Text()), nullable=True))
    op.create_check_constraint(op.f('ck_alerts_told'), 'alerts', "told <@ ARRAY['missed', 'failed', 'overrun', 'too_few']")
    op.create_check_constraint(op.f('ck_alerts_told_with_time'), 'alerts', 'cardinality(told) = 0 OR told_at IS NOT NULL')
    op.add_column('coverage', sa.Column('closed', sa.Boolean(), server_default=sa.text('false'), nullable=False))
    op.create_table('refusals',
    sa.Column('id', sa.BigInteger(), sa.Identity(always=False), nullable=False),
    sa.Column('service_id', sa.BigInteger(), nullable=False),
    sa.Column('kind', sa.Text(), nullable=False),
    sa.Column('since', sa.DateTime(timezone=True), nullable=False),
    sa.Column('until', sa.DateTime(timezone=True), nullable=False),
    sa.Column('count', sa.Integer(), nullable=False),
    sa.CheckConstraint("kind IN ('limit', 'queue')", name=op.f('ck_refusals_kind')),
    sa.CheckConstraint('since <= until AND count > 0', name=op.f('ck_refusals_ordered')),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_refusals'))
    )
    op.create_index('ix_refusals_service_until', 'refusals', ['service_id', 'until'])
    op.create_index('ix_refusals_until', 'refusals', ['until'])
    op.create_table('self_alerts',
    sa.Column('name', sa.Text(), nullable=False),
    sa.Column('opened_at', sa.DateTime(timezone=True), nullable=False),
    sa.Column('told_at', sa.DateTime(timezone=True), nullable=True),
    sa.Column('resolved_at', sa.DateTime(timezone=True), nullable=True),
    sa.Column('detail', postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'::jsonb"), nullable=False),
    sa.CheckConstraint("name ~ '^[a-z0-9][a-z0-9._-]{0,127}$'", name=op.f('ck_self_alerts_name')),
    sa.CheckConstraint('resolved_at >= opened_at', name=op.f('ck_self_alerts_ordered')),
    sa.PrimaryKeyConstraint('name', name=op.f('pk_self_alerts'))
    )
    op.create_table('alert_routes',
    sa.Column('alert_id', sa.BigInteger(), nullable=False),
    sa.Column('route_id', sa.BigInteger(), nullable=False),
    sa.Column('level', sa.Integer(), server_default='0', nullable=False),
    sa.Column('level_at', sa.DateTime(timezone=True), nullable=False),
    sa.CheckConstraint('level >= 0', name=op.f('ck_alert_routes_level')),
    sa.ForeignKeyConstraint(['alert_id'], ['alerts.id'], name=op.f('fk_alert_routes_alert_id'), ondelete='CASCADE'),
    sa.ForeignKeyConstraint(['route_id'], ['routes.id'], name=op.f('fk_alert_routes_route_id'), ondelete='CASCADE'),
    sa.PrimaryKeyConstraint('alert_id', 'route_id', name=op.f('pk_alert_routes'))
    )
    op.create_index(op.f('ix_alert_routes_route_id'), 'alert_routes', ['route_id'])
    op.add_column('deliveries', sa.Column('position', sa.Integer(), server_default='0', nullable=False))
    op.add_column('deliveries', sa.Column('carried_by', sa.BigInteger(), nullable=True))
    op.create_foreign_key(op.f('fk_deliveries_carried_by'), 'deliveries', 'deliveries', ['carried_by'], ['id'], ondelete='SET NULL')
    with op.get_context().autocommit_block():
        op.create_index(op.f('ix_deliveries_carried_by'), 'deliveries', ['carried_by'], postgresql_concurrently=True, if_not_exists=True)
        op.create_index('ix_deliveries_target_finished', 'deliveries', ['target_id', 'finished_at'], postgresql_concurrently=True, if_not_exists=True)


def downgrade() -> None:
    op.drop_index('ix_deliveries_target_finished', table_name='deliveries')
    op.drop_column('deliveries', 'carried_by')
    op.drop_column('deliveries', 'position')
    op.drop_table('alert_routes')
    op.drop_table('self_alerts')
    op.drop_table('refusals')
    op.drop_column('coverage', 'closed')
    op.drop_constraint(op.f('ck_alerts_told_with_time'), 'alerts')
    op.drop_constraint(op.f('ck_alerts_told'), 'alerts')
    op.drop_column('alerts', 'held')
    op.drop_column('alerts', 'told_at')
    op.drop_column('alerts', 'told')
