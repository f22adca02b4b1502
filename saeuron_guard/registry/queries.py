"""The questions that the registry answers, as SQL; rows become records here and go no further."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import Connection, Row, Select, select

from saeuron_guard.registry.ordering import by_code_points
from saeuron_guard.registry.records import (
    Calibration,
    ConceptRecord,
    FeatureScore,
    FeatureUse,
    JudgeRecord,
    ModelRecord,
    OperatingPoint,
    PromptSetRecord,
    SaeRecord,
    ScoringRun,
    SharedFeature,
)
from saeuron_guard.registry.tables import (
    calibrations,
    concepts,
    feature_scores,
    judges,
    models,
    operating_points,
    prompt_sets,
    saes,
    scoring_runs,
)

_SCORE_COLUMNS = tuple(
    feature_scores.c[name]
    for name in ("feature", "timestep", "rank", "score", "mean", "mean_others", "threshold", "firing_rate")
)
"""In the order of FeatureScore's fields: thousands of rows become records in every compilation."""

_MOST_VALUES = 500
"""In one list of a query: SQLite takes 999 in old builds."""


def all_models(connection: Connection) -> list[ModelRecord]:
    """Every model, by name."""
    return [
        ModelRecord(**_fields(row))
        for row in connection.execute(select(models).order_by(by_code_points(models.c.name)))
    ]


def all_concepts(connection: Connection) -> list[ConceptRecord]:
    """Every concept, by domain and name."""
    groups = concepts.alias()
    query = (
        select(concepts, groups.c.name.label("parent"))
        .outerjoin(groups, concepts.c.parent_id == groups.c.id)
        .order_by(by_code_points(concepts.c.domain), by_code_points(concepts.c.name))
    )
    rows = (_fields(row) for row in connection.execute(query))
    return [ConceptRecord(**{**row, "aliases": tuple(row["aliases"]), "parent": row["parent"] or ""}) for row in rows]


def all_saes(connection: Connection) -> list[SaeRecord]:
    """Every SAE, by model and hookpoint."""
    query = (
        select(saes, models.c.name.label("model"))
        .join(models)
        .order_by(by_code_points(models.c.name), by_code_points(saes.c.hookpoint), by_code_points(saes.c.name))
    )
    return [SaeRecord(**_fields(row)) for row in connection.execute(query)]


def all_runs(connection: Connection) -> list[ScoringRun]:
    """Every scoring run, by name."""
    query = select(scoring_runs, saes.c.name.label("sae")).join(saes).order_by(by_code_points(scoring_runs.c.name))
    rows = (_fields(row) for row in connection.execute(query))
    return [ScoringRun(**{**row, "timesteps": tuple(row["timesteps"])}) for row in rows]


def all_prompt_sets(connection: Connection) -> list[PromptSetRecord]:
    """Every prompt set, by role and name."""
    query = (
        select(prompt_sets, models.c.name.label("model"))
        .join(models)
        .order_by(by_code_points(prompt_sets.c.role), by_code_points(prompt_sets.c.name))
    )
    return [PromptSetRecord(**_fields(row)) for row in connection.execute(query)]


def all_judges(connection: Connection) -> list[JudgeRecord]:
    """Every judge, by name."""
    rows = (_fields(row) for row in connection.execute(select(judges).order_by(by_code_points(judges.c.name))))
    return [
        JudgeRecord(**{**row, "labels": {domain: tuple(names) for domain, names in row["labels"].items()}})
        for row in rows
    ]


def calibrations_of(connection: Connection, model: str, concept: str | None = None) -> list[Calibration]:
    """The calibrations of a model (of one concept), by concept."""
    query = (
        select(
            concepts.c.name.label("concept"),
            calibrations.c.id,
            calibrations.c.figures,
            calibrations.c.provenance,
            saes.c.name.label("sae"),
            scoring_runs.c.name.label("run"),
            operating_points.c.features,
            operating_points.c.multiplier,
        )
        .select_from(calibrations)
        .join(models, calibrations.c.model_id == models.c.id)
        .join(concepts, calibrations.c.concept_id == concepts.c.id)
        .join(operating_points, operating_points.c.calibration_id == calibrations.c.id)
        .join(saes, operating_points.c.sae_id == saes.c.id)
        .join(scoring_runs, operating_points.c.run_id == scoring_runs.c.id)
        .where(models.c.name == model)
        .order_by(by_code_points(concepts.c.name), operating_points.c.position)
    )
    if concept is not None:
        query = query.where(concepts.c.name == concept)
    return _grouped(connection.execute(query))


def scores_of(connection: Connection, run: str, concept: str, max_rank: int | None) -> list[FeatureScore]:
    """The scores of a concept in a run, latest timestep first, best rank first."""
    query: Select[Any] = (
        select(*_SCORE_COLUMNS)
        .where(
            feature_scores.c.run_id == select(scoring_runs.c.id).where(scoring_runs.c.name == run).scalar_subquery(),
            feature_scores.c.concept_id == select(concepts.c.id).where(concepts.c.name == concept).scalar_subquery(),
        )
        .order_by(feature_scores.c.timestep.desc(), feature_scores.c.rank)
    )
    if max_rank is not None:
        query = query.where(feature_scores.c.rank < max_rank)
    return [FeatureScore(*row) for row in connection.execute(query).all()]


def shared_features(
    connection: Connection, run: str, places: Sequence[tuple[int, int]], max_rank: int
) -> list[SharedFeature]:
    """For each concept, its best score of each feature over those of ``places`` where the rank is below ``max_rank``.

    Sorted by concept and feature.  SQLite, which keeps no statistics here, reads the whole run unless the order asks
    for the index by feature; and it would try pairs (feature, timestep) one by one.
    """
    wanted, features = frozenset(places), sorted({feature for feature, _ in places})
    best: dict[tuple[str, int], float] = {}
    for start in range(0, len(features), _MOST_VALUES):
        query = (
            select(concepts.c.name, feature_scores.c.feature, feature_scores.c.timestep, feature_scores.c.score)
            .select_from(feature_scores)
            .join(scoring_runs)
            .join(concepts, feature_scores.c.concept_id == concepts.c.id)
            .where(
                scoring_runs.c.name == run,
                feature_scores.c.feature.in_(features[start : start + _MOST_VALUES]),
                feature_scores.c.rank < max_rank,
                feature_scores.c.score > 0,
            )
            .order_by(feature_scores.c.feature)
        )
        for concept, feature, timestep, score in connection.execute(query).all():
            if (feature, timestep) in wanted and score > best.get((concept, feature), 0.0):
                best[concept, feature] = score
    return [SharedFeature(feature, concept, best[concept, feature]) for concept, feature in sorted(best)]


def uses_of(connection: Connection, sae: str, index: int) -> list[FeatureUse]:
    """Every score of a feature, by run and concept, latest timestep first."""
    query = (
        select(scoring_runs.c.name.label("run"), concepts.c.name.label("concept"), *_SCORE_COLUMNS)
        .select_from(feature_scores)
        .join(scoring_runs)
        .join(saes)
        .join(concepts, feature_scores.c.concept_id == concepts.c.id)
        .where(saes.c.name == sae, feature_scores.c.feature == index)
        .order_by(
            by_code_points(scoring_runs.c.name), by_code_points(concepts.c.name), feature_scores.c.timestep.desc()
        )
    )
    return [
        FeatureUse(run=run, concept=concept, score=FeatureScore(*score))
        for run, concept, *score in connection.execute(query)
    ]


def scored_runs(connection: Connection, concept: str) -> list[str]:
    """The names of the runs that scored a concept."""
    scored = (
        select(feature_scores.c.rank)
        .join(concepts, feature_scores.c.concept_id == concepts.c.id)
        .where(concepts.c.name == concept, feature_scores.c.run_id == scoring_runs.c.id)
        .exists()
    )
    return list(
        connection.execute(
            select(scoring_runs.c.name).where(scored).order_by(by_code_points(scoring_runs.c.name))
        ).scalars()
    )


def damage(connection: Connection) -> list[str]:
    """What SQLite's integrity and foreign-key checks find; PostgreSQL checks both by itself at every write."""
    if connection.dialect.name != "sqlite":
        return []
    found = [str(row[0]) for row in connection.exec_driver_sql("PRAGMA integrity_check") if row[0] != "ok"]
    found += [
        f"a row of {row[0]} refers to nothing in {row[2]}"
        for row in connection.exec_driver_sql("PRAGMA foreign_key_check")
    ]
    return found


def _fields(row: Row[Any]) -> dict[str, Any]:
    """A row by column, without the ids: those mean something inside the database only."""
    return {name: value for name, value in row._mapping.items() if name != "id" and not name.endswith("_id")}  # noqa: SLF001 - public in spite of its name


def _grouped(rows: Iterable[Row[Any]]) -> list[Calibration]:
    """One calibration for the rows of its operating points."""
    found: dict[int, Calibration] = {}
    for row in rows:
        point = OperatingPoint(sae=row.sae, run=row.run, features=row.features, multiplier=row.multiplier)
        before = found[row.id].points if row.id in found else ()
        found[row.id] = Calibration(row.concept, (*before, point), row.figures, row.provenance)
    return list(found.values())
