"""Concepts get aliases and a place in a taxonomy, models the widths of their hookpoints.

Revision: 0002, after 0001.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Rows that are there already get the default, which later writers must not rely on: it is dropped again.
    with op.batch_alter_table("models") as table:
        table.add_column(sa.Column("hookpoints", sa.JSON(), nullable=False, server_default="{}"))
    with op.batch_alter_table("models") as table:
        table.alter_column("hookpoints", existing_type=sa.JSON(), existing_nullable=False, server_default=None)
    with op.batch_alter_table("concepts") as table:
        table.add_column(sa.Column("aliases", sa.JSON(), nullable=False, server_default="[]"))
        table.add_column(sa.Column("parent_id", sa.Integer(), nullable=True))
    with op.batch_alter_table("concepts") as table:
        table.alter_column("aliases", existing_type=sa.JSON(), existing_nullable=False, server_default=None)
        table.create_foreign_key("fk_concepts_parent_id_concepts", "concepts", ["parent_id"], ["id"])
        table.create_index("ix_concepts_parent_id", ["parent_id"])


def downgrade() -> None:
    with op.batch_alter_table("concepts") as table:
        table.drop_index("ix_concepts_parent_id")
        table.drop_constraint("fk_concepts_parent_id_concepts", type_="foreignkey")
        table.drop_column("parent_id")
        table.drop_column("aliases")
    with op.batch_alter_table("models") as table:
        table.drop_column("hookpoints")
