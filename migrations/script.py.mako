"""${message}

The code of the release before this one still runs while this migration does, and after it until every
process is replaced.  So: expand now (new tables, nullable columns, indexes), move data in batches by a
task, contract a release later.  Locks are waited for 4 s at the most; an index on a table that grows is
made CONCURRENTLY in an autocommit_block, with its reason.

Revision: ${up_revision}
Before: ${down_revision | comma,n}
"""

import sqlalchemy as sa
from alembic import op
${imports if imports else ""}
revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}
branch_labels = ${repr(branch_labels)}
depends_on = ${repr(depends_on)}


def upgrade() -> None:
    ${upgrades if upgrades else "pass"}


def downgrade() -> None:
    ${downgrades if downgrades else "pass"}
