"""approvals and doubts: from when on an approval's time counts, and the doubt that a probe may settle

The code of the release before this one still runs while this migration does, and after it until every
process is replaced.  So: expand now (new columns without a value; no row is rewritten).  Locks are waited
for 4 s at the most.

Revision: 0006
Before: 0005
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = '0006'
down_revision = '0005'
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column('approvals', sa.Column('clock_since', sa.DateTime(timezone=True), nullable=True))
    op.add_column('execution_steps', sa.Column('doubt', postgresql.JSONB(), nullable=True))


def downgrade() -> None:
    op.drop_column('execution_steps', 'doubt')
    op.drop_column('approvals', 'clock_since')
