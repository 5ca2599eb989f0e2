"""count days: uptime, alerts and heartbeats of each service by day, which outlive the heartbeats

The code of the release before this one still runs while this migration does, and after it until every
process is replaced.  So: expand now (a new table with its index).  Locks are waited for 4 s at the most.

Revision: 0004
Before: 0003
"""

import sqlalchemy as sa
from alembic import op

revision = '0004'
down_revision = '0003'
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table('service_days',
    sa.Column('service_id', sa.BigInteger(), autoincrement=False, nullable=False),
    sa.Column('day', sa.Date(), nullable=False),
    sa.Column('up_s', sa.Integer(), nullable=False),
    sa.Column('down_s', sa.Integer(), nullable=False),
    sa.Column('unknown_s', sa.Integer(), nullable=False),
    sa.Column('alerts', sa.Integer(), nullable=False),
    sa.Column('heartbeats', sa.BigInteger(), nullable=False),
    sa.CheckConstraint('up_s >= 0 AND down_s >= 0 AND unknown_s >= 0 AND alerts >= 0 AND heartbeats >= 0', name=op.f('ck_service_days_numbers')),
    sa.CheckConstraint('up_s + down_s + unknown_s = 86400', name=op.f('ck_service_days_whole_day')),
    sa.ForeignKeyConstraint(['service_id'], ['services.id'], name=op.f('fk_service_days_service_id'), ondelete='CASCADE'),
    sa.PrimaryKeyConstraint('service_id', 'day', name=op.f('pk_service_days'))
    )
    op.create_index('ix_service_days_day', 'service_days', ['day'])


def downgrade() -> None:
    op.drop_table('service_days')
