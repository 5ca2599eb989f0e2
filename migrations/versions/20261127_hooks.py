"""hooks: bearer secrets as digests, what a hook heard of each group, and the times of schedule triggers

The code of the release before this one still runs while this migration does, and after it until every
process is replaced.  So: expand now (new tables, new columns with defaults; no hook exists before this
release, so the rule about its secret meets no row).  Locks are waited for 4 s at the most.

Revision: 0005
Before: 0004
"""

import sqlalchemy as sa
from alembic import op

revision = '0005'
down_revision = '0004'
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column('triggers', sa.Column('catch_up_s', sa.Integer(), server_default='600', nullable=False))
    op.create_check_constraint(op.f('ck_triggers_catch_up'), 'triggers', 'catch_up_s BETWEEN 60 AND 86400')
    op.add_column('hooks', sa.Column('secret_digest', sa.LargeBinary(), nullable=True))
    op.create_check_constraint(op.f('ck_hooks_with_secret'), 'hooks', "(verification = 'bearer') = (secret_digest IS NOT NULL) AND (verification = 'bearer') = (sealed_secret IS NULL)")
    op.create_table('hook_groups',
    sa.Column('hook_id', sa.BigInteger(), nullable=False),
    sa.Column('digest', sa.LargeBinary(), nullable=False),
    sa.Column('status', sa.Text(), nullable=False),
    sa.Column('heard_at', sa.DateTime(timezone=True), nullable=False),
    sa.Column('started_at', sa.DateTime(timezone=True), nullable=True),
    sa.CheckConstraint("status IN ('firing', 'resolved')", name=op.f('ck_hook_groups_status')),
    sa.ForeignKeyConstraint(['hook_id'], ['hooks.id'], name=op.f('fk_hook_groups_hook_id'), ondelete='CASCADE'),
    sa.PrimaryKeyConstraint('hook_id', 'digest', name=op.f('pk_hook_groups'))
    )
    op.create_table('trigger_occurrences',
    sa.Column('trigger_id', sa.BigInteger(), nullable=False),
    sa.Column('at', sa.DateTime(timezone=True), nullable=False),
    sa.Column('outcome', sa.Text(), nullable=False),
    sa.Column('execution_id', sa.Uuid(), nullable=True),
    sa.Column('note', sa.Text(), server_default='', nullable=False),
    sa.CheckConstraint("outcome IN ('started', 'shadow', 'refused', 'failed', 'missed')", name=op.f('ck_trigger_occurrences_outcome')),
    sa.CheckConstraint("outcome <> 'started' OR execution_id IS NOT NULL", name=op.f('ck_trigger_occurrences_started_has_execution')),
    sa.ForeignKeyConstraint(['trigger_id'], ['triggers.id'], name=op.f('fk_trigger_occurrences_trigger_id'), ondelete='CASCADE'),
    sa.PrimaryKeyConstraint('trigger_id', 'at', name=op.f('pk_trigger_occurrences'))
    )


def downgrade() -> None:
    op.drop_table('trigger_occurrences')
    op.drop_table('hook_groups')
    op.drop_constraint(op.f('ck_hooks_with_secret'), 'hooks', type_='check')
    op.drop_column('hooks', 'secret_digest')
    op.drop_constraint(op.f('ck_triggers_catch_up'), 'triggers', type_='check')
    op.drop_column('triggers', 'catch_up_s')
