"""What an auditor asks the registry, answered as data: the page of a concept and the page of a feature."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from saeuron_guard.names import feature_name
from saeuron_guard.registry.records import Calibration, ConceptRecord, FeatureScore, OperatingPoint, Review
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
    """Everything that the registry knows about a concept; ``reviews``: the newest of each feature that has one."""

    concept: ConceptRecord
    calibrations: tuple[ModelCalibration, ...]
    runs: tuple[RunPage, ...]
    reviews: Mapping[str, Review] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class GroupPage:
    """A group of concepts; ``members`` without their features."""

    concept: ConceptRecord
    members: tuple[ConceptPage, ...]


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


def find_concept(registry: FeatureRegistry, name: str) -> ConceptRecord:
    """The concept or group that ``name`` means, which may be another word for it; RegistryError when none does."""
    for concept in (*registry.concepts(), *registry.groups()):
        if name in concept.aliases:
            return concept
    return registry.concept(name)


def group_page(registry: FeatureRegistry, concept: ConceptRecord) -> GroupPage | None:
    """The page of a group; None when ``concept`` is no group."""
    members = {member.name for member in registry.groups().get(concept, ())}
    if not members:
        return None
    return GroupPage(concept, tuple(page for page in concept_overview(registry) if page.concept.name in members))


def concept_page(registry: FeatureRegistry, name: str, *, features: int = 10, model: str | None = None) -> ConceptPage:
    """The page of a concept: of each run, the features that calibration chose, or the best ``features`` if none.

    ``model``: only what belongs to this model.
    """
    concept = registry.concept(name)
    wanted = None if model is None else registry.model(model).name
    calibrations = [
        calibrated
        for calibrated in _calibrations_by_concept(registry).get(concept.name, ())
        if wanted in (None, calibrated.model)
    ]
    points = {point.run: point for calibrated in calibrations for point in calibrated.calibration.points}
    pages = []
    for run in registry.runs(concept.name):
        sae, point = registry.sae(run.sae), points.get(run.name)
        if wanted not in (None, sae.model):
            continue
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
    shown = {feature.feature for page in pages for feature in page.features}
    reviews = {feature: review for feature, review in registry.reviews().items() if feature in shown}
    return ConceptPage(concept, tuple(calibrations), tuple(pages), reviews)


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


def feature_page_from(value: Mapping[str, Any]) -> FeaturePage:
    """The page that ``value``, JSON that a review kept, was made from; ValueError when it is no page."""
    try:
        uses = tuple(
            ConceptUse(use["concept"], use["domain"], use["run"], _summary_from(use["summary"]))
            for use in value["uses"]
        )
        page = FeaturePage(value["feature"], value["sae"], value["model"], value["hookpoint"], uses)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"no page of a feature: {error}") from error
    return page


def _summary_from(value: Mapping[str, Any]) -> FeatureSummary:
    numbers = {name: float(value[name]) for name in ("score", "mean", "mean_others", "firing_rate")}
    return FeatureSummary(
        feature=value["feature"],
        best_rank=int(value["best_rank"]),
        at=int(value["at"]),
        timesteps=tuple(value["timesteps"]),
        chosen_at=tuple(value["chosen_at"]),
        **numbers,
    )
