"""snapshots: the audit entry of the change; which people of Slack stand for which key; a playbook's breaker

The code of the release before this one still runs while this migration does, and after it until every
process is replaced.  So: expand now (a new column without a value, a new table).  Locks are waited for 4 s at
the most; executions grow, so their index is made CONCURRENTLY in an autocommit_block.

Revision: 0007
Before: 0006
"""

import sqlalchemy as sa
from alembic import op

revision = '0007'
down_revision = '0006'
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column('snapshots', sa.Column('audit_id', sa.BigInteger(), nullable=True))
    op.create_table('slack_users',
    sa.Column('slack_id', sa.Text(), nullable=False),
    sa.Column('key_id', sa.Text(), nullable=False),
    sa.Column('name', sa.Text(), server_default='', nullable=False),
    sa.Column('created_by', sa.Text(), nullable=False),
    sa.Column('created_at', sa.DateTime(timezone=True), nullable=False),
    sa.CheckConstraint("slack_id ~ '^[A-Z0-9]{1,64}$'", name=op.f('ck_slack_users_slack_id')),
    sa.ForeignKeyConstraint(['key_id'], ['api_keys.id'], name=op.f('fk_slack_users_key_id'), ondelete='CASCADE'),
    sa.PrimaryKeyConstraint('slack_id', name=op.f('pk_slack_users'))
    )
    op.create_index(op.f('ix_slack_users_key_id'), 'slack_users', ['key_id'])
    with op.get_context().autocommit_block():
        op.create_index('ix_executions_playbook_created', 'executions', ['playbook_id', 'created_at'], postgresql_concurrently=True, if_not_exists=True)


def downgrade() -> None:
    op.drop_index('ix_executions_playbook_created', table_name='executions')
    op.drop_table('slack_users')
    op.drop_column('snapshots', 'audit_id')
