"""The content tables: filled from a manifest and its statistics, and read back as the manifest that filled them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Table, select

from saeuron_guard.registry import queries, tables
from saeuron_guard.registry.artefact import FIGURES, Statistics
from saeuron_guard.registry.manifest import Manifest
from saeuron_guard.registry.reviews import all_reviews

Ids = Mapping[str, int]
Row = dict[str, Any]


def read_content(connection: Connection) -> Manifest:
    """The manifest whose content the database holds, without reviews: those are no content."""
    models = queries.all_models(connection)
    return Manifest(
        models=tuple(models),
        saes=tuple(queries.all_saes(connection)),
        concepts=tuple(queries.all_concepts(connection)),
        prompt_sets=tuple(queries.all_prompt_sets(connection)),
        scoring_runs=tuple(queries.all_runs(connection)),
        calibrations=tuple(
            calibration for model in models for calibration in queries.calibrations_of(connection, model.name)
        ),
        judges=tuple(queries.all_judges(connection)),
    )


def read_manifest(connection: Connection) -> Manifest:
    """The manifest that the database makes: its content, and every review."""
    return dataclasses.replace(read_content(connection), reviews=tuple(all_reviews(connection)))


def scores_differ(connection: Connection, run: str, statistics: Statistics) -> bool:
    """Whether the database's scores of a run are others than its statistics."""
    columns = tables.feature_scores.c
    query = (
        select(tables.feature_scores)
        .join(tables.scoring_runs)
        .where(tables.scoring_runs.c.name == run)
        .order_by(columns.concept_id, columns.timestep, columns.rank)
    )
    held = [tuple(row) for row in connection.execute(query)]
    concepts = {row.name: row.id for row in connection.execute(select(tables.concepts.c.name, tables.concepts.c.id))}
    if not held or not concepts.keys() >= set(statistics.concepts):
        return bool(held) or statistics.index.size > 0
    return held != [tuple(row.values()) for row in score_rows(held[0][0], concepts, statistics)]


def replace_content(connection: Connection, manifest: Manifest, statistics: Mapping[str, Statistics]) -> None:
    """Empty the content tables and fill them; what people recorded stays. ``statistics``: by scoring run."""
    for table in reversed(tables.metadata.sorted_tables):
        if table in tables.CONTENT:
            connection.execute(table.delete())
    models = _insert_named(connection, tables.models, map(_columns, manifest.models))
    concepts = _fill_concepts(connection, manifest)
    _insert(connection, tables.judges, [_columns(judge) for judge in manifest.judges])
    _insert(connection, tables.prompt_sets, [_referring(row, model=models) for row in manifest.prompt_sets])
    saes = _insert_named(connection, tables.saes, (_referring(row, model=models) for row in manifest.saes))
    runs = _insert_named(connection, tables.scoring_runs, (_referring(row, sae=saes) for row in manifest.scoring_runs))
    for name, scored in statistics.items():
        _insert(connection, tables.feature_scores, score_rows(runs[name], concepts, scored))
    _fill_calibrations(connection, manifest, models=models, concepts=concepts, saes=saes, runs=runs)


def _fill_concepts(connection: Connection, manifest: Manifest) -> dict[str, int]:
    """Concepts first, then whose members they are: a parent may come after its members."""
    parents = {concept.name: concept.parent for concept in manifest.concepts if concept.parent}
    rows = (_columns(concept) | {"parent_id": None} for concept in manifest.concepts)
    concepts = _insert_named(connection, tables.concepts, (_without(row, "parent") for row in rows))
    for name, parent in parents.items():
        column = tables.concepts.c
        connection.execute(
            tables.concepts.update().where(column.id == concepts[name]).values(parent_id=concepts[parent])
        )
    return concepts


def _without(row: Row, name: str) -> Row:
    return {key: value for key, value in row.items() if key != name}


def _fill_calibrations(
    connection: Connection, manifest: Manifest, *, models: Ids, concepts: Ids, saes: Ids, runs: Ids
) -> None:
    for calibration in manifest.calibrations:
        row = {
            "model_id": models[manifest.model_of(calibration)],
            "concept_id": concepts[calibration.concept],
            "figures": dict(calibration.figures),
            "provenance": dict(calibration.provenance),
        }
        insert = tables.calibrations.insert().returning(tables.calibrations.c.id)
        identity = connection.execute(insert, row).scalar_one()
        points = [
            {"calibration_id": identity, "position": position, **_referring(point, sae=saes, run=runs)}
            for position, point in enumerate(calibration.points)
        ]
        _insert(connection, tables.operating_points, points)


def score_rows(run: int, concepts: Ids, statistics: Statistics) -> list[Row]:
    """One row for each (concept, timestep, rank), in the order of the table's primary key."""
    index = statistics.index.tolist()
    figures = {name: statistics.figures[name].tolist() for name in FIGURES}
    rows: list[Row] = []
    for c, t in sorted(
        ((c, t) for c in range(len(statistics.concepts)) for t in range(len(statistics.timesteps))),
        key=lambda place: (concepts[statistics.concepts[place[0]]], statistics.timesteps[place[1]]),
    ):
        concept, timestep = concepts[statistics.concepts[c]], statistics.timesteps[t]
        columns = zip(index[c][t], *(figures[name][c][t] for name in FIGURES), strict=True)
        rows += [
            {
                "run_id": run,
                "concept_id": concept,
                "timestep": timestep,
                "rank": rank,
                "feature": feature,
                "score": score,
                "mean": mean,
                "mean_others": mean_others,
                "threshold": threshold,
                "firing_rate": firing_rate,
            }
            for rank, (feature, score, mean, mean_others, threshold, firing_rate) in enumerate(columns)
        ]
    return rows


def _columns(record: Any) -> Row:
    """A record's fields as columns; JSON columns want plain dicts and lists."""
    row: Row = {}
    for name in record.__slots__:
        value = getattr(record, name)
        if isinstance(value, Mapping):
            value = {key: list(inner) if isinstance(inner, tuple) else inner for key, inner in value.items()}
        row[name] = list(value) if isinstance(value, tuple) else value
    return row


def _referring(record: Any, **ids: Ids) -> Row:
    """The columns of a record, with each named field replaced by the id of the row that it names."""
    row = _columns(record)
    for field, known in ids.items():
        row[f"{field}_id"] = known[row.pop(field)]
    return row


def _insert(connection: Connection, table: Table, rows: Sequence[Row]) -> None:
    if rows:
        connection.execute(table.insert(), rows)


def _insert_named(connection: Connection, table: Table, rows: Iterable[Row]) -> dict[str, int]:
    """Insert rows that have a name; returns the ids that the database gave them, by name."""
    _insert(connection, table, list(rows))
    return {row.name: row.id for row in connection.execute(select(table.c.name, table.c.id))}
