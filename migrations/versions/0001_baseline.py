"""The registry's first tables: models, SAEs, concepts, prompt sets, judges, scores and calibrations.

Revision: 0001, the first.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    create_named_things()
    create_models_and_saes()
    create_scores()
    create_calibrations()


def downgrade() -> None:
    for table in (
        "operating_points",
        "calibrations",
        "feature_scores",
        "scoring_runs",
        "prompt_sets",
        "saes",
        "models",
        "judges",
        "concepts",
        "meta",
    ):
        op.drop_table(table)


def create_named_things() -> None:
    """What refers to nothing else: facts about the database, concepts, judges."""
    op.create_table(
        "meta",
        sa.Column("key", sa.String(64), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("key", name="pk_meta"),
    )
    op.create_table(
        "concepts",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(128), nullable=False),
        sa.Column("domain", sa.String(128), nullable=False),
        sa.Column("title", sa.Text(), nullable=False),
        sa.Column("description", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_concepts"),
        sa.UniqueConstraint("name", name="uq_concepts_name"),
    )
    op.create_index("ix_concepts_domain", "concepts", ["domain"])
    op.create_table(
        "judges",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(128), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("role", sa.String(16), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("files", sa.JSON(), nullable=False),
        sa.Column("labels", sa.JSON(), nullable=False),
        sa.Column("provenance", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_judges"),
        sa.UniqueConstraint("name", name="uq_judges_name"),
    )


def create_models_and_saes() -> None:
    """Models, the SAEs at their hookpoints, the prompt sets made for them."""
    op.create_table(
        "models",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(128), nullable=False),
        sa.Column("family", sa.String(128), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("fingerprint", sa.String(71), nullable=False),
        sa.Column("resolution", sa.Integer(), nullable=False),
        sa.Column("steps", sa.Integer(), nullable=False),
        sa.Column("guidance", sa.Float(), nullable=False),
        sa.Column("scheduler", sa.String(128), nullable=False),
        sa.Column("files", sa.JSON(), nullable=False),
        sa.Column("licence", sa.Text(), nullable=False),
        sa.Column("provenance", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_models"),
        sa.UniqueConstraint("name", name="uq_models_name"),
    )
    op.create_table(
        "saes",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(128), nullable=False),
        sa.Column("model_id", sa.Integer(), nullable=False),
        sa.Column("hookpoint", sa.Text(), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("digest", sa.String(71), nullable=False),
        sa.Column("d_in", sa.Integer(), nullable=False),
        sa.Column("num_latents", sa.Integer(), nullable=False),
        sa.Column("k", sa.Integer(), nullable=False),
        sa.Column("variant", sa.String(128), nullable=False),
        sa.Column("fvu", sa.Float(), nullable=False),
        sa.Column("dead_share", sa.Float(), nullable=False),
        sa.Column("l0", sa.Float(), nullable=False),
        sa.Column("provenance", sa.JSON(), nullable=False),
        sa.CheckConstraint("k > 0 AND k <= num_latents", name=op.f("ck_saes_k_within_latents")),
        sa.ForeignKeyConstraint(["model_id"], ["models.id"], name="fk_saes_model_id_models"),
        sa.PrimaryKeyConstraint("id", name="pk_saes"),
        sa.UniqueConstraint("name", name="uq_saes_name"),
    )
    op.create_index("ix_saes_model_id_hookpoint", "saes", ["model_id", "hookpoint"])
    op.create_table(
        "prompt_sets",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(128), nullable=False),
        sa.Column("role", sa.String(16), nullable=False),
        sa.Column("model_id", sa.Integer(), nullable=False),
        sa.Column("digest", sa.String(71), nullable=False),
        sa.CheckConstraint("role IN ('anchor', 'calibration', 'audit')", name=op.f("ck_prompt_sets_role_known")),
        sa.ForeignKeyConstraint(["model_id"], ["models.id"], name="fk_prompt_sets_model_id_models"),
        sa.PrimaryKeyConstraint("id", name="pk_prompt_sets"),
        sa.UniqueConstraint("role", "name", name="uq_prompt_sets_role_name"),
    )
    op.create_index("ix_prompt_sets_model_id", "prompt_sets", ["model_id"])


def create_scores() -> None:
    """Scoring runs and the scores that they gave."""
    op.create_table(
        "scoring_runs",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(128), nullable=False),
        sa.Column("sae_id", sa.Integer(), nullable=False),
        sa.Column("method", sa.String(128), nullable=False),
        sa.Column("statistics_path", sa.Text(), nullable=False),
        sa.Column("statistics_digest", sa.String(71), nullable=False),
        sa.Column("timesteps", sa.JSON(), nullable=False),
        sa.Column("provenance", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(["sae_id"], ["saes.id"], name="fk_scoring_runs_sae_id_saes"),
        sa.PrimaryKeyConstraint("id", name="pk_scoring_runs"),
        sa.UniqueConstraint("name", name="uq_scoring_runs_name"),
    )
    op.create_index("ix_scoring_runs_sae_id", "scoring_runs", ["sae_id"])
    op.create_table(
        "feature_scores",
        sa.Column("run_id", sa.Integer(), nullable=False),
        sa.Column("concept_id", sa.Integer(), nullable=False),
        sa.Column("timestep", sa.Integer(), nullable=False),
        sa.Column("rank", sa.Integer(), nullable=False),
        sa.Column("feature", sa.Integer(), nullable=False),
        sa.Column("score", sa.Float(), nullable=False),
        sa.Column("mean", sa.Float(), nullable=False),
        sa.Column("mean_others", sa.Float(), nullable=False),
        sa.Column("threshold", sa.Float(), nullable=False),
        sa.Column("firing_rate", sa.Float(), nullable=False),
        sa.CheckConstraint("rank >= 0 AND feature >= 0", name=op.f("ck_feature_scores_not_negative")),
        sa.ForeignKeyConstraint(["concept_id"], ["concepts.id"], name="fk_feature_scores_concept_id_concepts"),
        sa.ForeignKeyConstraint(["run_id"], ["scoring_runs.id"], name="fk_feature_scores_run_id_scoring_runs"),
        sa.PrimaryKeyConstraint("run_id", "concept_id", "timestep", "rank", name="pk_feature_scores"),
        sa.UniqueConstraint(
            "run_id",
            "feature",
            "concept_id",
            "timestep",
            name="uq_feature_scores_run_id_feature_concept_id_timestep",
        ),
        sqlite_with_rowid=False,
    )


def create_calibrations() -> None:
    """What calibration chose for each concept of a model."""
    op.create_table(
        "calibrations",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("model_id", sa.Integer(), nullable=False),
        sa.Column("concept_id", sa.Integer(), nullable=False),
        sa.Column("figures", sa.JSON(), nullable=False),
        sa.Column("provenance", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(["concept_id"], ["concepts.id"], name="fk_calibrations_concept_id_concepts"),
        sa.ForeignKeyConstraint(["model_id"], ["models.id"], name="fk_calibrations_model_id_models"),
        sa.PrimaryKeyConstraint("id", name="pk_calibrations"),
        sa.UniqueConstraint("model_id", "concept_id", name="uq_calibrations_model_id_concept_id"),
    )
    op.create_index("ix_calibrations_concept_id", "calibrations", ["concept_id"])
    op.create_table(
        "operating_points",
        sa.Column("calibration_id", sa.Integer(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("sae_id", sa.Integer(), nullable=False),
        sa.Column("run_id", sa.Integer(), nullable=False),
        sa.Column("features", sa.Integer(), nullable=False),
        sa.Column("multiplier", sa.Float(), nullable=False),
        sa.CheckConstraint("features > 0", name=op.f("ck_operating_points_some_features")),
        sa.ForeignKeyConstraint(
            ["calibration_id"], ["calibrations.id"], name="fk_operating_points_calibration_id_calibrations"
        ),
        sa.ForeignKeyConstraint(["run_id"], ["scoring_runs.id"], name="fk_operating_points_run_id_scoring_runs"),
        sa.ForeignKeyConstraint(["sae_id"], ["saes.id"], name="fk_operating_points_sae_id_saes"),
        sa.PrimaryKeyConstraint("calibration_id", "position", name="pk_operating_points"),
        sa.UniqueConstraint("calibration_id", "sae_id", name="uq_operating_points_calibration_id_sae_id"),
    )
    op.create_index("ix_operating_points_run_id", "operating_points", ["run_id"])
    op.create_index("ix_operating_points_sae_id", "operating_points", ["sae_id"])
