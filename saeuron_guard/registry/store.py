"""The feature registry as the rest of the program sees it: names in, frozen records out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self, TypeVar

from saeuron_guard.errors import RegistryError
from saeuron_guard.names import FEATURE
from saeuron_guard.registry import queries
from saeuron_guard.registry.build import bring_up_to_date, stored_digest
from saeuron_guard.registry.database import BUILT_FILE, configured_url, engine_for, exists, reading, shown, sqlite_url
from saeuron_guard.registry.manifest import configured_manifest
from saeuron_guard.registry.migrate import migrate_command, require_current
from saeuron_guard.registry.records import (
    Calibration,
    ConceptRecord,
    FeatureScore,
    FeatureUse,
    JudgeRecord,
    ModelRecord,
    PromptSetRecord,
    Review,
    SaeRecord,
    ScoringRun,
    SharedFeature,
)
from saeuron_guard.registry.reviews import newest_reviews
from saeuron_guard.registry.stamp import Stamp
from saeuron_guard.resources import data_folder, state_folder
from saeuron_guard.wording import did_you_mean, quote

if TYPE_CHECKING:
    from sqlalchemy import Engine

MANIFEST = "manifest.yaml"


class _Named(Protocol):
    @property
    def name(self) -> str: ...


_Record = TypeVar("_Record", bound=_Named)


class FeatureRegistry:
    """An open registry. Every call is one short query; unknown names raise RegistryError with the nearest known one.

    Use as a context manager, or ``close()`` it.
    """

    def __init__(self, engine: Engine, manifest: Path) -> None:
        self._engine = engine
        self._manifest = manifest

    @classmethod
    def open(cls, url: str | None = None, *, manifest: Path | None = None, stamp: Stamp | None = None) -> Self:
        """Open a registry.

        Without arguments: the database that SAEURON_GUARD_DATABASE names, or else the registry of one's own whose
        manifest SAEURON_GUARD_MANIFEST names, or else the shipped one.  ``url`` alone: that database, as it is, with
        the files of the registry of one's own or else of the shipped one.  ``manifest`` alone: built beside it, with
        the files there.  Both: built at ``url``.
        What is built is built on first use and again whenever the manifest has changed; the shipped registry in
        ``resources.state_folder()``.  ``stamp``: who builds, and when; None: this process, now.
        Raises RegistryError, ManifestError or ArtefactError when the content cannot be trusted.
        """
        if url is None and manifest is None:
            url = configured_url()
        if url is not None and manifest is None:
            return cls._open_as_it_is(url)
        return cls.built(url, manifest=manifest, stamp=stamp)

    @classmethod
    def built(cls, url: str | None = None, *, manifest: Path | None = None, stamp: Stamp | None = None) -> Self:
        """Open the database at ``url``, migrated, and holding what ``manifest`` says.

        None for the one that SAEURON_GUARD_MANIFEST names or else the shipped one.  ``stamp`` as for ``open``.
        """
        own = manifest or configured_manifest()
        path = (own or data_folder("registry") / MANIFEST).absolute()
        folder = path.parent if own is not None else state_folder()
        engine = engine_for(url or sqlite_url(folder / BUILT_FILE))
        try:
            bring_up_to_date(engine, path, stamp)
        except BaseException:
            engine.dispose()
            raise
        return cls(engine, path)

    @classmethod
    def _open_as_it_is(cls, url: str) -> Self:
        path = (configured_manifest() or data_folder("registry") / MANIFEST).absolute()
        engine = engine_for(url)
        try:
            _require_content(engine)
        except BaseException:
            engine.dispose()
            raise
        return cls(engine, path)

    def close(self) -> None:
        """Give up all connections."""
        self._engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @property
    def artefact_root(self) -> Path:
        """The folder below which the relative paths of records lie."""
        return self._manifest.parent

    @property
    def manifest_path(self) -> Path:
        """The manifest that says what the database should hold."""
        return self._manifest

    @property
    def engine(self) -> Engine:
        """The database, for the other modules of the registry."""
        return self._engine

    @property
    def place(self) -> str:
        """Where the database is, for messages; without a password."""
        return shown(self._engine.url)

    def manifest_digest(self) -> str:
        """The digest of the manifest that the database holds."""
        with reading(self._engine) as connection:
            return stored_digest(connection) or ""

    def damage(self) -> list[str]:
        """What the database's own consistency checks find, in words; empty when it is sound."""
        with reading(self._engine) as connection:
            return queries.damage(connection)

    def models(self) -> list[ModelRecord]:
        """Every model, by name."""
        with reading(self._engine) as connection:
            return queries.all_models(connection)

    def model(self, name: str) -> ModelRecord:
        """The model of this name."""
        return _pick("model", name, self.models(), "registry list --models")

    def concepts(self, domain: str | None = None) -> list[ConceptRecord]:
        """Every concept (of a domain, which must exist) that is no group, by domain and name."""
        every = self._all_concepts()
        groups = {concept.parent for concept in every}
        found = [concept for concept in every if concept.name not in groups]
        if domain is None:
            return found
        known = {concept.domain for concept in found}
        if domain not in known:
            raise _unknown("domain", domain, known, "registry list")
        return [concept for concept in found if concept.domain == domain]

    def groups(self) -> dict[ConceptRecord, list[ConceptRecord]]:
        """The groups of the taxonomy with their members, by domain and name."""
        every = self._all_concepts()
        members = {group: [concept for concept in every if concept.parent == group.name] for group in every}
        return {group: found for group, found in members.items() if found}

    def _all_concepts(self) -> list[ConceptRecord]:
        with reading(self._engine) as connection:
            return queries.all_concepts(connection)

    def concept(self, name: str) -> ConceptRecord:
        """The concept or group of this name."""
        return _pick("concept", name, self._all_concepts(), "registry list")

    def saes(self, model: str) -> list[SaeRecord]:
        """The SAEs of a model, by hookpoint."""
        known = self.model(model)
        with reading(self._engine) as connection:
            return [sae for sae in queries.all_saes(connection) if sae.model == known.name]

    def sae(self, name: str) -> SaeRecord:
        """The SAE of this name."""
        with reading(self._engine) as connection:
            return _pick("SAE", name, queries.all_saes(connection), "registry list --models")

    def runs(self, concept: str | None = None) -> list[ScoringRun]:
        """Every scoring run (that scored a concept), by name."""
        wanted = None if concept is None else self.concept(concept).name
        with reading(self._engine) as connection:
            found = queries.all_runs(connection)
            scored = None if wanted is None else set(queries.scored_runs(connection, wanted))
        return found if scored is None else [run for run in found if run.name in scored]

    def run(self, name: str) -> ScoringRun:
        """The scoring run of this name."""
        return _pick("scoring run", name, self.runs(), "registry list --models")

    def prompt_sets(self) -> list[PromptSetRecord]:
        """Every prompt set that was used, by role and name."""
        with reading(self._engine) as connection:
            return queries.all_prompt_sets(connection)

    def judges(self) -> list[JudgeRecord]:
        """Every judge, by name."""
        with reading(self._engine) as connection:
            return queries.all_judges(connection)

    def judge(self, name: str) -> JudgeRecord:
        """The judge of this name."""
        return _pick("judge", name, self.judges(), "registry list --models")

    def calibration(self, model: str, concept: str) -> Calibration | None:
        """What calibration chose for a concept of a model; None when nobody calibrated it."""
        known_model, known_concept = self.model(model), self.concept(concept)
        with reading(self._engine) as connection:
            found = queries.calibrations_of(connection, known_model.name, known_concept.name)
        return found[0] if found else None

    def calibrations(self, model: str) -> list[Calibration]:
        """Every calibration of a model, by concept."""
        known = self.model(model)
        with reading(self._engine) as connection:
            return queries.calibrations_of(connection, known.name)

    def scores(self, run: str, concept: str, *, max_rank: int | None = None) -> list[FeatureScore]:
        """The scores of a concept in a run: timesteps descending, then ranks (those below ``max_rank``) ascending.

        Empty when the run did not score the concept.
        """
        known_run, known_concept = self.run(run), self.concept(concept)
        with reading(self._engine) as connection:
            return queries.scores_of(connection, known_run.name, known_concept.name, max_rank)

    def shared_features(self, run: str, places: Sequence[tuple[int, int]], *, max_rank: int) -> list[SharedFeature]:
        """For each concept, those features that are among its best in a run at one of ``places``, (feature, timestep).

        Best: the rank is below ``max_rank``, the score above 0.
        """
        known = self.run(run)
        with reading(self._engine) as connection:
            return queries.shared_features(connection, known.name, places, max_rank)

    def uses_of(self, feature: str) -> list[FeatureUse]:
        """Every score of feature ``sae:index``, over runs, concepts and timesteps: who else would feel its removal."""
        sae, index = self.feature(feature)
        with reading(self._engine) as connection:
            return queries.uses_of(connection, sae.name, index)

    def reviews(self, sae: str | None = None) -> dict[str, Review]:
        """The newest review of each feature (of SAE ``sae``) that was reviewed, by its name ``sae:index``.

        Only reviews of the SAEs as they are now: one of an SAE whose digest has changed since does not count.
        """
        known = None if sae is None else self.sae(sae).name
        with reading(self._engine) as connection:
            return newest_reviews(connection, known)

    def feature(self, name: str) -> tuple[SaeRecord, int]:
        """The SAE and the index that a feature's name ``sae:index`` means; both must exist."""
        match = FEATURE.fullmatch(name)
        if match is None:
            raise RegistryError(f"{quote(name)} is not a feature's name; write sae:index, such as my-sae:17")
        sae, index = self.sae(match["sae"]), int(match["index"])
        if index >= sae.num_latents:
            raise RegistryError(f"{sae.name} has features 0 to {sae.num_latents - 1}, got {index}")
        return sae, index


def _require_content(engine: Engine) -> None:
    """Raise RegistryError, with the command that helps, unless the database is of this release and filled."""
    advice = f'make it with "{migrate_command(engine.url)}"'
    if not exists(engine):
        raise RegistryError(f"{shown(engine.url)}: there is no such database; {advice}")
    with reading(engine) as connection:
        require_current(connection)
        if stored_digest(connection) is None:
            raise RegistryError(f"{shown(engine.url)}: holds no registry yet; {advice}")


def _pick(what: str, name: str, records: Iterable[_Record], command: str) -> _Record:
    by_name = {record.name: record for record in records}
    if name in by_name:
        return by_name[name]
    raise _unknown(what, name, by_name, command)


def _unknown(what: str, name: str, known: Iterable[str], command: str) -> RegistryError:
    hint = did_you_mean(name, known)
    return RegistryError(f'unknown {what} {quote(name)}.{hint} List them with "saeuron-guard {command}".')
