"""Fills the database from the manifest and the statistics that it pins: all in one transaction, or nothing."""

from __future__ import annotations

import contextlib
import importlib.metadata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, Table, select

from saeuron_guard.digests import digest_of_file
from saeuron_guard.errors import ArtefactError, ManifestError, Problem
from saeuron_guard.registry import tables
from saeuron_guard.registry.artefact import FIGURES, Statistics, read_statistics
from saeuron_guard.registry.database import exists, migrating, reading
from saeuron_guard.registry.manifest import Manifest, load_manifest
from saeuron_guard.registry.migrate import VERSION_KEY, current_revision, refuse_unknown, upgrade
from saeuron_guard.registry.records import ScoringRun
from saeuron_guard.resources import inside

DIGEST_KEY = "manifest_digest"
"""Key in ``meta`` of the digest of the manifest that the database holds."""

Ids = Mapping[str, int]
Row = dict[str, Any]


def bring_up_to_date(engine: Engine, manifest_path: Path) -> bool:
    """Make the database hold what the manifest says, migrating it first; False when it did already.

    The manifest and the artefacts are read and checked before anything is written.  Several processes may do this at
    once: one writes, the others wait and find it done.  A process that dies leaves the database as it was.
    Raises ManifestError, ArtefactError, or RegistryError for a database of a newer release.
    """
    if not manifest_path.is_file():
        raise ManifestError([Problem(str(manifest_path), 0, 0, "there is no manifest; restore it from the release")])
    digest = digest_of_file(manifest_path)
    if exists(engine) and _holds(engine, digest):
        return False
    manifest = load_manifest(manifest_path)
    statistics = {run.name: _statistics(manifest, run, manifest_path.parent) for run in manifest.scoring_runs}
    with migrating(engine) as connection:
        if current_revision(connection) != tables.REVISION:
            upgrade(connection)
        if stored_digest(connection) == digest:
            return False
        _empty(connection)
        _fill(connection, manifest, statistics)
        _sign(connection, digest)
    return True


def stored_digest(connection: Connection) -> str | None:
    """The digest of the manifest that a migrated database holds; None while it holds none."""
    query = select(tables.meta.c.value).where(tables.meta.c.key == DIGEST_KEY)
    digest: str | None = connection.execute(query).scalar()
    return digest


def _holds(engine: Engine, digest: str) -> bool:
    with reading(engine) as connection:
        if current_revision(connection) == tables.REVISION:
            return stored_digest(connection) == digest
        refuse_unknown(connection)
        return False


def _statistics(manifest: Manifest, run: ScoringRun, root: Path) -> Statistics:
    sae = next(sae for sae in manifest.saes if sae.name == run.sae)
    path = inside(root, run.statistics_path)
    statistics = read_statistics(path, run.statistics_digest, num_latents=sae.num_latents)
    if statistics.timesteps != run.timesteps:
        raise ArtefactError(
            f"{path}: holds the timesteps {list(statistics.timesteps)}, but scoring run {run.name!r} of the manifest "
            f"says {list(run.timesteps)}; record the run as it was"
        )
    unknown = sorted(set(statistics.concepts) - {concept.name for concept in manifest.concepts})
    if unknown:
        raise ArtefactError(f"{path}: scores {unknown[0]!r}, which is not among the manifest's concepts; add it there")
    return statistics


def _empty(connection: Connection) -> None:
    for table in reversed(tables.metadata.sorted_tables):
        connection.execute(table.delete())


def _fill(connection: Connection, manifest: Manifest, statistics: Mapping[str, Statistics]) -> None:
    models = _insert_named(connection, tables.models, map(_columns, manifest.models))
    concepts = _fill_concepts(connection, manifest)
    _insert(connection, tables.judges, [_columns(judge) for judge in manifest.judges])
    _insert(connection, tables.prompt_sets, [_referring(row, model=models) for row in manifest.prompt_sets])
    saes = _insert_named(connection, tables.saes, (_referring(row, model=models) for row in manifest.saes))
    runs = _insert_named(connection, tables.scoring_runs, (_referring(row, sae=saes) for row in manifest.scoring_runs))
    for name, scored in statistics.items():
        _insert(connection, tables.feature_scores, _score_rows(runs[name], concepts, scored))
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


def _score_rows(run: int, concepts: Ids, statistics: Statistics) -> list[Row]:
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


def _sign(connection: Connection, digest: str) -> None:
    rows = [{"key": DIGEST_KEY, "value": digest}]
    # A checkout that is not installed has no release to name.
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        rows.append({"key": VERSION_KEY, "value": importlib.metadata.version("saeuron-guard")})
    _insert(connection, tables.meta, rows)


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
