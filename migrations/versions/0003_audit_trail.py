"""What people record: reviews, policies, guards and verifications, and a chain of events that nobody can change.

Revision: 0003, after 0002.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    create_reviews()
    create_policies_and_guards()
    create_verification_runs()
    create_events()
    if op.get_bind().dialect.name == "sqlite":
        protect_events_on_sqlite()
    else:
        protect_events_on_postgresql()


def downgrade() -> None:
    for table in ("events", "verification_runs", "guard_features", "guards", "policies", "reviews"):
        op.drop_table(table)  # its triggers go with it
    if op.get_bind().dialect.name != "sqlite":
        op.execute("DROP FUNCTION refuse_change_of_events()")
    op.execute("DELETE FROM meta WHERE key = 'last_event'")


def create_reviews() -> None:
    """Decisions about features, by the SAE's name and digest, so that they outlive the rows of the content."""
    op.create_table(
        "reviews",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("sae", sa.String(128), nullable=False),
        sa.Column("sae_digest", sa.String(71), nullable=False),
        sa.Column("feature", sa.Integer(), nullable=False),
        sa.Column("verdict", sa.String(16), nullable=False),
        sa.Column("by", sa.Text(), nullable=False),
        sa.Column("why", sa.Text(), nullable=False),
        sa.Column("when", sa.String(20), nullable=False),
        sa.Column("page", sa.JSON(), nullable=False),
        sa.CheckConstraint("verdict IN ('approved', 'rejected', 'quarantined')", name=op.f("ck_reviews_verdict_known")),
        sa.PrimaryKeyConstraint("id", name="pk_reviews"),
    )
    op.create_index("ix_reviews_sae_feature", "reviews", ["sae", "feature"])


def create_policies_and_guards() -> None:
    """Policies that were compiled, the guards they became, and the features that those edit."""
    op.create_table(
        "policies",
        sa.Column("digest", sa.String(71), nullable=False),
        sa.Column("name", sa.String(128), nullable=False),
        sa.Column("version", sa.String(128), nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("file", sa.Text(), nullable=False),
        sa.Column("by", sa.Text(), nullable=False),
        sa.Column("when", sa.String(20), nullable=False),
        sa.PrimaryKeyConstraint("digest", name="pk_policies"),
    )
    op.create_index("ix_policies_name", "policies", ["name"])
    op.create_table(
        "guards",
        sa.Column("digest", sa.String(71), nullable=False),
        sa.Column("policy_digest", sa.String(71), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("fingerprint", sa.String(71), nullable=False),
        sa.Column("by", sa.Text(), nullable=False),
        sa.Column("when", sa.String(20), nullable=False),
        sa.ForeignKeyConstraint(["policy_digest"], ["policies.digest"], name="fk_guards_policy_digest_policies"),
        sa.PrimaryKeyConstraint("digest", name="pk_guards"),
    )
    op.create_index("ix_guards_policy_digest", "guards", ["policy_digest"])
    op.create_table(
        "guard_features",
        sa.Column("guard_digest", sa.String(71), nullable=False),
        sa.Column("sae", sa.String(128), nullable=False),
        sa.Column("sae_digest", sa.String(71), nullable=False),
        sa.Column("feature", sa.Integer(), nullable=False),
        sa.Column("concept", sa.String(128), nullable=False),
        sa.Column("strength", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(["guard_digest"], ["guards.digest"], name="fk_guard_features_guard_digest_guards"),
        sa.PrimaryKeyConstraint("guard_digest", "sae", "feature", "concept", name="pk_guard_features"),
    )
    op.create_index("ix_guard_features_sae_feature", "guard_features", ["sae", "feature"])


def create_verification_runs() -> None:
    """What ``verify`` said of a guard, each time."""
    op.create_table(
        "verification_runs",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("guard_digest", sa.String(71), nullable=False),
        sa.Column("policy_digest", sa.String(71), nullable=False),
        sa.Column("verdict", sa.String(16), nullable=False),
        sa.Column("exit_code", sa.Integer(), nullable=False),
        sa.Column("judge", sa.Text(), nullable=False),
        sa.Column("judge_digest", sa.String(71), nullable=False),
        sa.Column("seeds", sa.JSON(), nullable=False),
        sa.Column("images", sa.Integer(), nullable=False),
        sa.Column("figures", sa.JSON(), nullable=False),
        sa.Column("by", sa.Text(), nullable=False),
        sa.Column("when", sa.String(20), nullable=False),
        sa.ForeignKeyConstraint(["guard_digest"], ["guards.digest"], name="fk_verification_runs_guard_digest_guards"),
        sa.ForeignKeyConstraint(
            ["policy_digest"], ["policies.digest"], name="fk_verification_runs_policy_digest_policies"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_verification_runs"),
    )
    op.create_index("ix_verification_runs_guard_digest", "verification_runs", ["guard_digest"])
    op.create_index("ix_verification_runs_policy_digest", "verification_runs", ["policy_digest"])


def create_events() -> None:
    """Every change of the registry, each event with the digest of the one before."""
    op.create_table(
        "events",
        sa.Column("seq", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("when", sa.String(20), nullable=False),
        sa.Column("by", sa.Text(), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("payload", sa.Text(), nullable=False),
        sa.Column("previous", sa.String(71), nullable=False),
        sa.Column("digest", sa.String(71), nullable=False),
        sa.CheckConstraint("seq > 0", name=op.f("ck_events_counted_from_1")),
        sa.PrimaryKeyConstraint("seq", name="pk_events"),
    )


def protect_events_on_sqlite() -> None:
    """Refuse UPDATE and DELETE, and INSERT OR REPLACE, which deletes without firing the trigger of DELETE."""
    for action in ("update", "delete"):
        op.execute(
            f"CREATE TRIGGER events_refuse_{action} BEFORE {action.upper()} ON events "
            "BEGIN SELECT RAISE(ABORT, 'events are append-only'); END"
        )
    op.execute(
        "CREATE TRIGGER events_refuse_replace BEFORE INSERT ON events "
        "WHEN EXISTS (SELECT 1 FROM events WHERE seq = NEW.seq) "
        "BEGIN SELECT RAISE(ABORT, 'events are append-only'); END"
    )


def protect_events_on_postgresql() -> None:
    """Refuse UPDATE, DELETE and TRUNCATE."""
    op.execute(
        "CREATE FUNCTION refuse_change_of_events() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION 'events are append-only'; END $$"
    )
    for action in ("update", "delete", "truncate"):
        op.execute(
            f"CREATE TRIGGER events_refuse_{action} BEFORE {action.upper()} ON events "
            "FOR EACH STATEMENT EXECUTE FUNCTION refuse_change_of_events()"
        )
