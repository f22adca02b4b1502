"""What the compiler asks of the feature registry, and nothing more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from saeuron_guard.registry.records import (
    Calibration,
    ConceptRecord,
    FeatureScore,
    ModelRecord,
    Review,
    SaeRecord,
    ScoringRun,
    SharedFeature,
)


class FeatureSource(Protocol):
    """The part of ``FeatureRegistry`` that compiling reads; unknown names raise RegistryError."""

    def models(self) -> Sequence[ModelRecord]:
        """All models."""

    def concepts(self, domain: str | None = None) -> Sequence[ConceptRecord]:
        """All concepts, or those of one domain."""

    def groups(self) -> Mapping[ConceptRecord, Sequence[ConceptRecord]]:
        """The groups of concepts with their members."""

    def sae(self, name: str) -> SaeRecord:
        """One sparse autoencoder."""

    def run(self, name: str) -> ScoringRun:
        """One scoring run."""

    def runs(self, concept: str | None = None) -> Sequence[ScoringRun]:
        """All scoring runs, or those that scored a concept."""

    def reviews(self, sae: str | None = None) -> Mapping[str, Review]:
        """The newest review of each feature that has one (of an SAE), by the feature's name."""

    def calibration(self, model: str, concept: str) -> Calibration | None:
        """The chosen operating points of a concept on a model, or None when it was never calibrated."""

    def scores(self, run: str, concept: str, *, max_rank: int | None = None) -> Sequence[FeatureScore]:
        """A concept's feature scores in a run, best ranks first within a timestep."""

    def shared_features(self, run: str, places: Sequence[tuple[int, int]], *, max_rank: int) -> Sequence[SharedFeature]:
        """For each concept, those features that are among its best at one of ``places``, (feature, timestep).

        Best: the rank in the run is below ``max_rank``, the score above 0.
        """
