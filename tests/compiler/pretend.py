"""A registry held in memory, for the compiler alone: as few lines as a case needs, everything else is derived."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from saeuron_guard.errors import RegistryError
from saeuron_guard.registry.records import (
    Calibration,
    ConceptRecord,
    FeatureScore,
    ModelRecord,
    OperatingPoint,
    Review,
    SaeRecord,
    ScoringRun,
    SharedFeature,
)

Ranking = Mapping[int, list[tuple[int, float]]]
"""timestep -> (feature, score), best first."""


def digest(text: str) -> str:
    """A well-formed digest that differs for different texts."""
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class PretendRegistry:
    """Satisfies ``FeatureSource``; ``rankings`` maps (run, concept) to its features at each timestep.

    Means are twice the score, thresholds a tenth of it, so that expected values can be told by eye.
    """

    domains: dict[str, str]
    points: dict[str, list[OperatingPoint]]
    rankings: dict[tuple[str, str], Ranking]
    hookpoints: dict[str, str] = field(default_factory=lambda: {"objects": "unet.up.1", "styles": "unet.up.2"})
    timesteps: tuple[int, ...] = (900, 500, 100)
    model_name: str = "tiny"
    verdicts: dict[str, Any] = field(default_factory=dict)

    def models(self) -> list[ModelRecord]:
        """The one model."""
        return [ModelRecord(self.model_name, "sd1", "models/tiny", digest("tiny"), 64, 25, 5.0, "DDIMScheduler")]

    def concepts(self, domain: str | None = None) -> list[ConceptRecord]:
        """The concepts, all or of one domain."""
        records = [ConceptRecord(name, of, name.capitalize(), "") for name, of in self.domains.items()]
        return [record for record in records if domain in {None, record.domain}]

    def groups(self) -> dict[ConceptRecord, list[ConceptRecord]]:
        """No taxonomy."""
        return {}

    def sae(self, name: str) -> SaeRecord:
        """An SAE of 64 features at its hookpoint."""
        if name not in self.hookpoints:
            raise RegistryError(f"unknown SAE {name!r}")
        path = f"saes/tiny/{name}"
        return SaeRecord(
            name, "tiny", self.hookpoints[name], path, digest(name), 16, 64, 4, "topk", 0.1, 0.0, 4.0, {"seed": 7}
        )

    def run(self, name: str) -> ScoringRun:
        """A run over the SAE that the part of its name before the point names, by the method after it."""
        sae, _, method = name.partition(".")
        return ScoringRun(name, sae, method, "none", digest(name), self.timesteps, {"prompts": "anchors"})

    def runs(self, concept: str | None = None) -> list[ScoringRun]:
        """The runs that have a ranking (of a concept)."""
        return [self.run(name) for name in sorted({run for run, of in self.rankings if concept in {None, of}})]

    def reviews(self, sae: str | None = None) -> dict[str, Review]:
        """The reviews that the case states."""
        return {
            name: Review(
                name.partition(":")[0], int(name.partition(":")[2]), digest(name), verdict, "ann", "why", "2026"
            )
            for name, verdict in self.verdicts.items()
        }

    def calibration(self, model: str, concept: str) -> Calibration | None:
        """The concept's operating points, if it has any."""
        assert model == self.model_name
        points = self.points.get(concept)
        return Calibration(concept, tuple(points), {"ua": 0.95}, {"seeds": [1, 2, 3]}) if points else None

    def scores(self, run: str, concept: str, *, max_rank: int | None = None) -> list[FeatureScore]:
        """The ranking of a concept, all of it or the ranks below ``max_rank``."""
        return [
            FeatureScore(index, timestep, rank, score, 2 * score, 0.0, score / 10, 0.25)
            for timestep, ranking in self.rankings.get((run, concept), {}).items()
            for rank, (index, score) in enumerate(ranking)
            if max_rank is None or rank < max_rank
        ]

    def shared_features(self, run: str, places: Sequence[tuple[int, int]], *, max_rank: int) -> list[SharedFeature]:
        """The best score of each feature for every concept that the run ranks."""
        best: dict[tuple[int, str], float] = {}
        for of, concept in self.rankings:
            for score in self.scores(run, concept, max_rank=max_rank) if of == run else ():
                if (score.index, score.timestep) in places and score.score > 0:
                    best[score.index, concept] = max(score.score, best.get((score.index, concept), 0.0))
        return [SharedFeature(index, concept, score) for (index, concept), score in best.items()]


def pretend_registry(description: Mapping[str, Any]) -> PretendRegistry:
    """The registry that a case's ``registry.json`` describes.

    ``concepts``: {name: domain}; ``points``: {concept: [[run, features, multiplier], ...]};
    ``reviews``: {feature: verdict}.
    ``scores``: {run: {concept: {timestep: [[feature, score], ...]}}}, a list in place of the mapping holds for all
    timesteps.
    """
    timesteps = tuple(description.get("timesteps", (900, 500, 100)))
    rankings: dict[tuple[str, str], Ranking] = {}
    for run, by_concept in description["scores"].items():
        for concept, rows in by_concept.items():
            at = rows if isinstance(rows, dict) else dict.fromkeys(timesteps, rows)
            rankings[run, concept] = {
                int(timestep): [(index, score) for index, score in ranking] for timestep, ranking in at.items()
            }
    points = {
        concept: [
            OperatingPoint(run.partition(".")[0], run, features, multiplier) for run, features, multiplier in rows
        ]
        for concept, rows in description["points"].items()
    }
    verdicts = dict(description.get("reviews", {}))
    return PretendRegistry(dict(description["concepts"]), points, rankings, timesteps=timesteps, verdicts=verdicts)
