"""rotate keys: which key a key replaces

The code of the release before this one still runs while this migration does, and after it until every
process is replaced.  So: expand now (new tables, nullable columns, indexes), move data in batches by a
task, contract a release later.  Locks are waited for 4 s at the most; an index on a table that grows is
made CONCURRENTLY in an autocommit_block, with its reason.  Keys are few, so this index is made at once.

Revision: 0002
Before: 0001
"""

import sqlalchemy as sa
from alembic import op

revision = '0002'
down_revision = '0001'
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column('api_keys', sa.Column('replaces', sa.Text(), nullable=True))
    op.create_unique_constraint(op.f('uq_api_keys_replaces'), 'api_keys', ['replaces'])
    op.create_foreign_key(op.f('fk_api_keys_replaces'), 'api_keys', 'api_keys', ['replaces'], ['id'])
    op.create_check_constraint(op.f('ck_api_keys_replaces_another'), 'api_keys', 'replaces <> id')


def downgrade() -> None:
    op.drop_column('api_keys', 'replaces')
