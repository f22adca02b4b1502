"""Brings the database up to date with the manifest and the statistics that it pins: one transaction, or nothing."""

from __future__ import annotations

import contextlib
import importlib.metadata
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Connection, Engine, select

from saeuron_guard.digests import digest_of_file
from saeuron_guard.errors import ArtefactError, ManifestError, Problem
from saeuron_guard.registry import tables
from saeuron_guard.registry.artefact import Statistics, read_statistics, verify_artefacts
from saeuron_guard.registry.changes import Changes, content_changes
from saeuron_guard.registry.content import read_content, replace_content
from saeuron_guard.registry.database import exists, migrating, reading
from saeuron_guard.registry.events import append_event
from saeuron_guard.registry.manifest import Manifest, load_manifest
from saeuron_guard.registry.migrate import VERSION_KEY, current_revision, refuse_unknown, upgrade
from saeuron_guard.registry.records import ScoringRun
from saeuron_guard.registry.reviews import add_reviews, refuse_changed_reviews
from saeuron_guard.registry.stamp import Stamp
from saeuron_guard.resources import inside

DIGEST_KEY = "manifest_digest"
"""Key in ``meta`` of the digest of the manifest that the database holds."""


@dataclass(frozen=True, slots=True)
class Source:
    """A manifest that was read and checked, with the statistics of its scoring runs by name."""

    manifest: Manifest
    digest: str
    statistics: Mapping[str, Statistics]


def bring_up_to_date(engine: Engine, manifest_path: Path, stamp: Stamp | None = None) -> bool:
    """Make the database hold what the manifest says, migrating it first; False when it did already.

    The manifest and the artefacts are read and checked before anything is written.  Several processes may do this at
    once: one writes, the others wait and find it done.  A process that dies leaves the database as it was.
    ``stamp``: who does it, and when, for the event; None: this process, now.
    Raises ManifestError, ArtefactError, or RegistryError for a database of a newer release.
    """
    if not manifest_path.is_file():
        raise ManifestError([Problem(str(manifest_path), 0, 0, "there is no manifest; restore it from the release")])
    digest = digest_of_file(manifest_path)
    if exists(engine) and _holds(engine, digest):
        return False
    source = read_source(manifest_path)
    stamp = stamp or Stamp.now()
    with migrating(engine) as connection:
        migrate_if_needed(connection, stamp)
        if stored_digest(connection) == source.digest and _content_was_noted(connection):
            return False
        write_source(connection, source, stamp)
    return True


def read_source(manifest_path: Path, *, every_file: bool = False) -> Source:
    """Read and check a manifest and its statistics; raises ManifestError or ArtefactError.

    ``every_file``: compare all other files that the manifest pins, too.
    """
    digest = digest_of_file(manifest_path)
    manifest = load_manifest(manifest_path)
    if every_file:
        _require_files(manifest, manifest_path.parent)
    statistics = {run.name: read_run(manifest, run, manifest_path.parent) for run in manifest.scoring_runs}
    return Source(manifest, digest, statistics)


def _require_files(manifest: Manifest, root: Path) -> None:
    failed = [artefact for artefact in verify_artefacts(manifest, root) if not artefact.passed]
    if failed:
        lines = [
            f"{root / artefact.path} (of {artefact.owner}): expected {artefact.expected}, "
            f"got {artefact.actual or 'no such file'}"
            for artefact in failed
        ]
        raise ArtefactError("\n".join([*lines, "restore these files, or record the digests of those that are meant"]))


def migrate_if_needed(connection: Connection, stamp: Stamp) -> None:
    """Bring the schema up to this release."""
    if current_revision(connection) != tables.REVISION:
        upgrade(connection, stamp=stamp)


def write_source(connection: Connection, source: Source, stamp: Stamp) -> tuple[Changes, tuple[str, ...]]:
    """Replace the content, add reviews that are new, and note both in the chain of events.

    Gives what changed in the content, and the reviews that were new, in words.
    Raises RegistryError for a review that was changed on its way.
    """
    # Where the chain begins later than the content, its first event of content names all of it.
    before = read_content(connection) if _content_was_noted(connection) else Manifest()
    changes = content_changes(before, source.manifest)
    replace_content(connection, source.manifest, source.statistics)
    _sign(connection, source.digest)
    append_event(connection, stamp, "content", source.digest, {"manifest": source.digest, **changes.to_json()})
    refuse_changed_reviews(connection, source.manifest.reviews)
    return changes, add_reviews(connection, source.manifest.reviews, stamp)


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


def _content_was_noted(connection: Connection) -> bool:
    query = select(tables.events.c.seq).where(tables.events.c.kind == "content").limit(1)
    return connection.execute(query).first() is not None


def read_run(manifest: Manifest, run: ScoringRun, root: Path) -> Statistics:
    """The statistics of a run of ``manifest``; raises ArtefactError unless both say the same."""
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


def _sign(connection: Connection, digest: str) -> None:
    rows = [{"key": DIGEST_KEY, "value": digest}]
    # A checkout that is not installed has no release to name.
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        rows.append({"key": VERSION_KEY, "value": importlib.metadata.version("saeuron-guard")})
    connection.execute(tables.meta.delete().where(tables.meta.c.key.in_((DIGEST_KEY, VERSION_KEY))))
    connection.execute(tables.meta.insert(), rows)
