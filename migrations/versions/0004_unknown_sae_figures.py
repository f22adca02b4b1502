"""The figures of an SAE may be unknown: an imported one has none until somebody measures them.

Revision: 0004, after 0003.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

FIGURES = ("fvu", "dead_share", "l0")


def upgrade() -> None:
    _set_nullable(to=True)


def downgrade() -> None:
    # Rows with unknown figures stop this, by the constraint: a made-up number would be worse than no way back.
    _set_nullable(to=False)


def _set_nullable(*, to: bool) -> None:
    with op.batch_alter_table("saes") as table:
        for name in FIGURES:
            table.alter_column(name, existing_type=sa.Float(), existing_nullable=not to, nullable=to)
