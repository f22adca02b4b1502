"""What an auditor asks the registry, answered as data: the page of a concept and the page of a feature."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from saeuron_guard.names import feature_name
from saeuron_guard.registry.records import Calibration, ConceptRecord, FeatureScore, OperatingPoint
from saeuron_guard.registry.store import FeatureRegistry


@dataclass(frozen=True, slots=True)
class FeatureSummary:
    """A feature's scores for one concept in one run, over timesteps.

    ``best_rank``, ``score``, ``mean``, ``mean_others``, ``firing_rate``: at the timestep of its best rank (``at``).
    ``timesteps``: where it is scored; ``chosen_at``: where calibration chose it, as far as the summary reaches.
    """

    feature: str
    best_rank: int
    score: float
    mean: float
    mean_others: float
    firing_rate: float
    at: int
    timesteps: tuple[int, ...]
    chosen_at: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class RunPage:
    """One scoring run's best features for a concept, and the operating point that rests on them, if any."""

    run: str
    sae: str
    model: str
    hookpoint: str
    method: str
    timesteps: tuple[int, ...]
    point: OperatingPoint | None
    features: tuple[FeatureSummary, ...]
    provenance: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class ModelCalibration:
    """What calibration says about a concept of ``model``; ``hookpoints`` is parallel to the calibration's points."""

    model: str
    hookpoints: tuple[str, ...]
    calibration: Calibration


@dataclass(frozen=True, slots=True)
class ConceptPage:
    """Everything that the registry knows about a concept."""

    concept: ConceptRecord
    calibrations: tuple[ModelCalibration, ...]
    runs: tuple[RunPage, ...]


@dataclass(frozen=True, slots=True)
class ConceptUse:
    """What a feature is to one concept in one run; ``chosen_at``: timesteps at which calibration chose it."""

    concept: str
    domain: str
    run: str
    summary: FeatureSummary


@dataclass(frozen=True, slots=True)
class FeaturePage:
    """Everything that the registry knows about a feature, most important use first."""

    feature: str
    sae: str
    model: str
    hookpoint: str
    uses: tuple[ConceptUse, ...]


def concept_overview(registry: FeatureRegistry, domain: str | None = None) -> list[ConceptPage]:
    """Every concept (of a domain) with its calibrations, without features."""
    calibrations = _calibrations_by_concept(registry)
    return [
        ConceptPage(concept, tuple(calibrations.get(concept.name, ())), ()) for concept in registry.concepts(domain)
    ]


def concept_page(registry: FeatureRegistry, name: str, *, features: int = 10) -> ConceptPage:
    """The page of a concept: of each run, the features that calibration chose, or the best ``features`` if none."""
    concept = registry.concept(name)
    calibrations = _calibrations_by_concept(registry).get(concept.name, ())
    points = {point.run: point for calibrated in calibrations for point in calibrated.calibration.points}
    pages = []
    for run in registry.runs(concept.name):
        sae, point = registry.sae(run.sae), points.get(run.name)
        chosen = point.features if point else 0
        scores = registry.scores(run.name, concept.name, max_rank=chosen or features)
        pages.append(
            RunPage(
                run=run.name,
                sae=sae.name,
                model=sae.model,
                hookpoint=sae.hookpoint,
                method=run.method,
                timesteps=run.timesteps,
                point=point,
                features=tuple(_summaries(sae.name, scores, chosen)),
                provenance=run.provenance,
            )
        )
    return ConceptPage(concept, tuple(calibrations), tuple(pages))


def feature_page(registry: FeatureRegistry, name: str) -> FeaturePage:
    """The page of feature ``sae:index``: every concept that it scores for, chosen ones first, then by score."""
    sae, index = registry.feature(name)
    domains = {concept.name: concept.domain for concept in registry.concepts()}
    chosen = {
        (calibration.concept, point.run): point.features
        for calibration in registry.calibrations(sae.model)
        for point in calibration.points
    }
    scores: dict[tuple[str, str], list[FeatureScore]] = {}
    for use in registry.uses_of(name):
        scores.setdefault((use.concept, use.run), []).append(use.score)
    uses = [
        ConceptUse(concept, domains[concept], run, _summary(sae.name, found, chosen.get((concept, run), 0)))
        for (concept, run), found in scores.items()
    ]
    uses.sort(key=lambda use: (not use.summary.chosen_at, use.summary.best_rank, -use.summary.score, use.concept))
    return FeaturePage(feature_name(sae.name, index), sae.name, sae.model, sae.hookpoint, tuple(uses))


def _calibrations_by_concept(registry: FeatureRegistry) -> dict[str, list[ModelCalibration]]:
    found: dict[str, list[ModelCalibration]] = {}
    for model in registry.models():
        hookpoints = {sae.name: sae.hookpoint for sae in registry.saes(model.name)}
        for calibration in registry.calibrations(model.name):
            used = tuple(hookpoints[point.sae] for point in calibration.points)
            found.setdefault(calibration.concept, []).append(ModelCalibration(model.name, used, calibration))
    return found


def _summaries(sae: str, scores: Iterable[FeatureScore], chosen: int) -> list[FeatureSummary]:
    by_index: dict[int, list[FeatureScore]] = {}
    for score in scores:
        by_index.setdefault(score.index, []).append(score)
    summaries = [_summary(sae, found, chosen) for found in by_index.values()]
    return sorted(summaries, key=lambda summary: (summary.best_rank, -summary.score, summary.feature))


def _summary(sae: str, scores: list[FeatureScore], chosen: int) -> FeatureSummary:
    """One feature's scores for one concept; ``chosen``: how many features a timestep calibration took.

    As when a guard is compiled, a feature that does not speak for the concept (score 0 or less) is not chosen.
    """
    best = min(scores, key=lambda score: (score.rank, -score.score))
    return FeatureSummary(
        feature=feature_name(sae, best.index),
        best_rank=best.rank,
        score=best.score,
        mean=best.mean,
        mean_others=best.mean_others,
        firing_rate=best.firing_rate,
        at=best.timestep,
        timesteps=tuple(score.timestep for score in scores),
        chosen_at=tuple(score.timestep for score in scores if score.rank < chosen and score.score > 0),
    )
