"""Whether a registry is what its manifest says: the database's content and records and every file that it pins."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from sqlalchemy import Connection

from saeuron_guard.digests import digest_of_file
from saeuron_guard.errors import ArtefactError
from saeuron_guard.registry import queries
from saeuron_guard.registry.artefact import ArtefactCheck, verify_artefacts
from saeuron_guard.registry.build import read_run, stored_digest
from saeuron_guard.registry.changes import content_changes
from saeuron_guard.registry.content import read_content, scores_differ
from saeuron_guard.registry.database import reading
from saeuron_guard.registry.events import chain_problems, last_digest
from saeuron_guard.registry.manifest import Manifest, load_manifest
from saeuron_guard.registry.recorded import record_problems
from saeuron_guard.registry.records import ScoringRun
from saeuron_guard.registry.reviews import all_reviews
from saeuron_guard.registry.store import FeatureRegistry

PROVENANCE: Final = {
    "method": ("method",),
    "seeds": ("seeds", "seed"),
    "steps": ("steps",),
    "scheduler": ("scheduler",),
    "guidance": ("guidance",),
    "dtype": ("dtype",),
    "library versions": ("libraries",),
    "git revision": ("git_revision",),
    "who": ("by",),
    "when": ("when",),
}
"""What a scoring run's provenance should name, and under which keys; the method may be the run's own."""


@dataclass(frozen=True, slots=True)
class RegistryCheck:
    """What was compared and what was found.

    ``problems`` are those of the database, ``warnings`` what is not as it should be but no reason to fail, in words.
    ``last_event``: the digest of the chain's last event; noted down elsewhere, it proves later that nothing was cut.
    """

    database: str
    manifest: str
    manifest_digest: str
    last_event: str
    problems: tuple[str, ...]
    warnings: tuple[str, ...]
    artefacts: tuple[ArtefactCheck, ...]

    @property
    def passed(self) -> bool:
        """Whether everything is as recorded."""
        return not self.problems and all(artefact.passed for artefact in self.artefacts)


def check_registry(registry: FeatureRegistry, prompt_digests: Mapping[tuple[str, str], str]) -> RegistryCheck:
    """Compare an open registry with its manifest, its records with its events, and all files with their digests.

    ``prompt_digests``: (role, name) -> digest of the prompt sets that are at hand; those not at hand are not compared.
    Raises ManifestError when the manifest itself is not valid.
    """
    path = registry.manifest_path
    manifest = load_manifest(path)
    digest = digest_of_file(path)
    artefacts = verify_artefacts(manifest, registry.artefact_root)
    sound = {artefact.path for artefact in artefacts if artefact.passed}
    with reading(registry.engine) as read, _snapshot(read) as connection:
        problems = [
            *queries.damage(connection),
            *_manifest_problems(connection, manifest, digest),
            *_score_problems(connection, registry, manifest, sound),
            *chain_problems(connection),
            *record_problems(connection),
            *_prompt_problems(manifest, prompt_digests),
        ]
        warnings = [*_unwritten_reviews(connection, manifest), *map(_lacking, manifest.scoring_runs)]
        last_event = last_digest(connection)
    return RegistryCheck(
        database=registry.place,
        manifest=str(path),
        manifest_digest=digest,
        last_event=last_event,
        problems=tuple(problems),
        warnings=tuple(warning for warning in warnings if warning),
        artefacts=artefacts,
    )


@contextmanager
def _snapshot(connection: Connection) -> Iterator[Connection]:
    """The same state of the database for all queries, whoever writes meanwhile; SQLite gives no other."""
    if connection.dialect.name == "postgresql":
        connection = connection.execution_options(isolation_level="REPEATABLE READ")
    yield connection


def _manifest_problems(connection: Connection, manifest: Manifest, digest: str) -> Iterator[str]:
    held = stored_digest(connection) or ""
    if held != digest:
        yield f'the database holds manifest {held}, the file is {digest}; run "saeuron-guard registry migrate"'
    changes = content_changes(manifest, read_content(connection))
    for names, problem in (
        (changes.added, "is in the database but not in the manifest"),
        (changes.removed, "is in the manifest but not in the database"),
        (changes.changed, "differs between the manifest and the database"),
    ):
        yield from (f"{kind}: {name!r} {problem}" for kind, found in names.items() for name in found)
    known = {review.identity for review in all_reviews(connection)}
    for review in manifest.reviews:
        if review.identity not in known:
            yield f"reviews: that of {review.feature} by {review.by} at {review.when} is not in the database"


def _score_problems(
    connection: Connection, registry: FeatureRegistry, manifest: Manifest, sound: set[str]
) -> Iterator[str]:
    """Scores against the statistics they came from, as far as those are the pinned ones; others fail by themselves."""
    for run in manifest.scoring_runs:
        if run.statistics_path not in sound:
            continue
        try:
            statistics = read_run(manifest, run, registry.artefact_root)
        except ArtefactError as error:
            yield str(error)
            continue
        if scores_differ(connection, run.name, statistics):
            yield f"scores of run {run.name!r} differ between the database and {run.statistics_path}"


def _prompt_problems(manifest: Manifest, prompt_digests: Mapping[tuple[str, str], str]) -> Iterator[str]:
    for used in manifest.prompt_sets:
        found = prompt_digests.get((used.role, used.name), used.digest)
        if found != used.digest:
            yield f"{used.role} prompt set {used.name!r}: expected {used.digest}, got {found}"


def _unwritten_reviews(connection: Connection, manifest: Manifest) -> Iterator[str]:
    written = {review.identity for review in manifest.reviews}
    fresh = sum(review.identity not in written for review in all_reviews(connection))
    if fresh:
        count = "1 review is" if fresh == 1 else f"{fresh} reviews are"
        yield f'{count} in the database only; "saeuron-guard registry export" writes a manifest that has them'


def _lacking(run: ScoringRun) -> str:
    """What the provenance of a run should name and does not, in words; empty when nothing is lacking."""
    named = {"method": run.method, **run.provenance}
    lacking = [what for what, keys in PROVENANCE.items() if all(named.get(key) in (None, "") for key in keys)]
    return f"the provenance of scoring run {run.name!r} does not name: {', '.join(lacking)}" if lacking else ""
