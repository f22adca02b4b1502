"""The tables of the registry's database. ``migrations/`` makes them; a test proves that both say the same."""

from __future__ import annotations

from typing import Final

from sqlalchemy import (
    JSON,
    CheckConstraint,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
    Text,
    UniqueConstraint,
)

from saeuron_guard.names import PROMPT_ROLES
from saeuron_guard.registry.records import VERDICTS

REVISION: Final = "0004"
"""The migration that these tables belong to; opening a database compares it without loading Alembic."""

NAMING: Final = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}
"""Every constraint has a name on every database, so that a later migration can alter it."""

NAME: Final = String(128)
DIGEST: Final = String(71)
"""``sha256:`` and 64 hexadecimal digits."""
MOMENT: Final = String(20)
"""``2025-01-31T12:00:00Z``: UTC to the second, so that the order of the texts is the order of the times."""


def _one_of(column: str, values: tuple[str, ...]) -> str:
    return "{} IN ({})".format(column, ", ".join(f"'{value}'" for value in values))


metadata = MetaData(naming_convention=NAMING)

meta = Table(
    "meta",
    metadata,
    Column("key", String(64), primary_key=True),
    Column("value", Text, nullable=False),
)
"""Facts about the database itself: the manifest that it holds, the release that wrote it, the last event."""

models = Table(
    "models",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", NAME, nullable=False),
    Column("family", NAME, nullable=False),
    Column("path", Text, nullable=False),
    Column("fingerprint", DIGEST, nullable=False),
    Column("resolution", Integer, nullable=False),
    Column("steps", Integer, nullable=False),
    Column("guidance", Float, nullable=False),
    Column("scheduler", NAME, nullable=False),
    Column("files", JSON, nullable=False),
    Column("licence", Text, nullable=False),
    Column("provenance", JSON, nullable=False),
    Column("hookpoints", JSON, nullable=False),
    UniqueConstraint("name"),
)

saes = Table(
    "saes",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", NAME, nullable=False),
    Column("model_id", ForeignKey("models.id"), nullable=False),
    Column("hookpoint", Text, nullable=False),
    Column("path", Text, nullable=False),
    Column("digest", DIGEST, nullable=False),
    Column("d_in", Integer, nullable=False),
    Column("num_latents", Integer, nullable=False),
    Column("k", Integer, nullable=False),
    Column("variant", NAME, nullable=False),
    Column("fvu", Float, nullable=True),
    Column("dead_share", Float, nullable=True),
    Column("l0", Float, nullable=True),
    Column("provenance", JSON, nullable=False),
    UniqueConstraint("name"),
    CheckConstraint("k > 0 AND k <= num_latents", name="k_within_latents"),
    Index(None, "model_id", "hookpoint"),
)

concepts = Table(
    "concepts",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", NAME, nullable=False),
    Column("domain", NAME, nullable=False),
    Column("title", Text, nullable=False),
    Column("description", Text, nullable=False),
    Column("aliases", JSON, nullable=False),
    Column("parent_id", ForeignKey("concepts.id"), nullable=True),
    UniqueConstraint("name"),
    Index(None, "domain"),
    Index(None, "parent_id"),
)

prompt_sets = Table(
    "prompt_sets",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", NAME, nullable=False),
    Column("role", String(16), nullable=False),
    Column("model_id", ForeignKey("models.id"), nullable=False),
    Column("digest", DIGEST, nullable=False),
    UniqueConstraint("role", "name"),
    CheckConstraint(_one_of("role", PROMPT_ROLES), name="role_known"),
    Index(None, "model_id"),
)

judges = Table(
    "judges",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", NAME, nullable=False),
    Column("kind", String(16), nullable=False),
    Column("role", String(16), nullable=False),
    Column("path", Text, nullable=False),
    Column("files", JSON, nullable=False),
    Column("labels", JSON, nullable=False),
    Column("provenance", JSON, nullable=False),
    UniqueConstraint("name"),
)

scoring_runs = Table(
    "scoring_runs",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", NAME, nullable=False),
    Column("sae_id", ForeignKey("saes.id"), nullable=False),
    Column("method", NAME, nullable=False),
    Column("statistics_path", Text, nullable=False),
    Column("statistics_digest", DIGEST, nullable=False),
    Column("timesteps", JSON, nullable=False),
    Column("provenance", JSON, nullable=False),
    UniqueConstraint("name"),
    Index(None, "sae_id"),
)

feature_scores = Table(
    "feature_scores",
    metadata,
    Column("run_id", ForeignKey("scoring_runs.id"), nullable=False),
    Column("concept_id", ForeignKey("concepts.id"), nullable=False),
    Column("timestep", Integer, nullable=False),
    Column("rank", Integer, nullable=False),
    Column("feature", Integer, nullable=False),
    Column("score", Float, nullable=False),
    Column("mean", Float, nullable=False),
    Column("mean_others", Float, nullable=False),
    Column("threshold", Float, nullable=False),
    Column("firing_rate", Float, nullable=False),
    # Answers "the scores of (run, concept)"; without a row id, SQLite stores the rows in this order.
    PrimaryKeyConstraint("run_id", "concept_id", "timestep", "rank"),
    # Answers "who uses feature (sae, index)" through the runs of the SAE.
    UniqueConstraint("run_id", "feature", "concept_id", "timestep"),
    CheckConstraint("rank >= 0 AND feature >= 0", name="not_negative"),
    sqlite_with_rowid=False,
)

calibrations = Table(
    "calibrations",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("model_id", ForeignKey("models.id"), nullable=False),
    Column("concept_id", ForeignKey("concepts.id"), nullable=False),
    Column("figures", JSON, nullable=False),
    Column("provenance", JSON, nullable=False),
    UniqueConstraint("model_id", "concept_id"),
    Index(None, "concept_id"),
)

operating_points = Table(
    "operating_points",
    metadata,
    Column("calibration_id", ForeignKey("calibrations.id"), nullable=False),
    Column("position", Integer, nullable=False),
    Column("sae_id", ForeignKey("saes.id"), nullable=False),
    Column("run_id", ForeignKey("scoring_runs.id"), nullable=False),
    Column("features", Integer, nullable=False),
    Column("multiplier", Float, nullable=False),
    PrimaryKeyConstraint("calibration_id", "position"),
    UniqueConstraint("calibration_id", "sae_id"),
    CheckConstraint("features > 0", name="some_features"),
    Index(None, "run_id"),
    Index(None, "sae_id"),
)

CONTENT: Final = (
    models,
    saes,
    concepts,
    prompt_sets,
    judges,
    scoring_runs,
    feature_scores,
    calibrations,
    operating_points,
)
"""What the manifest says: emptied and filled again when it changes. The other tables hold what people record.

What people record names the content and refers to none of its rows, so it outlives them.
"""

reviews = Table(
    "reviews",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("sae", NAME, nullable=False),
    Column("sae_digest", DIGEST, nullable=False),
    Column("feature", Integer, nullable=False),
    Column("verdict", String(16), nullable=False),
    Column("by", Text, nullable=False),
    Column("why", Text, nullable=False),
    Column("when", MOMENT, nullable=False),
    Column("page", JSON, nullable=False),
    CheckConstraint(_one_of("verdict", VERDICTS), name="verdict_known"),
    Index(None, "sae", "feature"),
)

policies = Table(
    "policies",
    metadata,
    Column("digest", DIGEST, primary_key=True),
    Column("name", NAME, nullable=False),
    Column("version", NAME, nullable=False),
    Column("owner", Text, nullable=False),
    Column("file", Text, nullable=False),
    Column("by", Text, nullable=False),
    Column("when", MOMENT, nullable=False),
    Index(None, "name"),
)

guards = Table(
    "guards",
    metadata,
    Column("digest", DIGEST, primary_key=True),
    Column("policy_digest", ForeignKey("policies.digest"), nullable=False),
    Column("model", Text, nullable=False),
    Column("fingerprint", DIGEST, nullable=False),
    Column("by", Text, nullable=False),
    Column("when", MOMENT, nullable=False),
    Index(None, "policy_digest"),
)

guard_features = Table(
    "guard_features",
    metadata,
    Column("guard_digest", ForeignKey("guards.digest"), nullable=False),
    Column("sae", NAME, nullable=False),
    Column("sae_digest", DIGEST, nullable=False),
    Column("feature", Integer, nullable=False),
    Column("concept", NAME, nullable=False),
    Column("strength", Float, nullable=False),
    PrimaryKeyConstraint("guard_digest", "sae", "feature", "concept"),
    # Answers "which guards use feature (sae, index)".
    Index(None, "sae", "feature"),
)

verification_runs = Table(
    "verification_runs",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("guard_digest", ForeignKey("guards.digest"), nullable=False),
    Column("policy_digest", ForeignKey("policies.digest"), nullable=False),
    Column("verdict", String(16), nullable=False),
    Column("exit_code", Integer, nullable=False),
    Column("judge", Text, nullable=False),
    Column("judge_digest", DIGEST, nullable=False),
    Column("seeds", JSON, nullable=False),
    Column("images", Integer, nullable=False),
    Column("figures", JSON, nullable=False),
    Column("by", Text, nullable=False),
    Column("when", MOMENT, nullable=False),
    Index(None, "guard_digest"),
    Index(None, "policy_digest"),
)

events = Table(
    "events",
    metadata,
    # Counted by the chain itself: a number that the database gave out might be skipped when a transaction fails.
    Column("seq", Integer, primary_key=True, autoincrement=False),
    Column("when", MOMENT, nullable=False),
    Column("by", Text, nullable=False),
    Column("kind", String(16), nullable=False),
    Column("subject", Text, nullable=False),
    Column("payload", Text, nullable=False),
    Column("previous", DIGEST, nullable=False),
    Column("digest", DIGEST, nullable=False),
    CheckConstraint("seq > 0", name="counted_from_1"),
)
"""Append-only: triggers that migration 0003 makes refuse every change; see ``registry.events``."""
