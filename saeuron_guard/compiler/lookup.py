"""Finds what a policy's words stand for in the registry, and everything that it asks for and cannot have."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from saeuron_guard.compiler.source import FeatureSource
from saeuron_guard.errors import Problem
from saeuron_guard.policy.model import ConceptRule, Place, Policy
from saeuron_guard.registry.records import Calibration, ConceptRecord, ModelRecord, SaeRecord, ScoringRun
from saeuron_guard.wording import did_you_mean, quote

LIST_HINT = 'List them with "saeuron-guard registry list".'
MODELS_HINT = 'List them with "saeuron-guard registry list --models".'


@dataclass(frozen=True, slots=True)
class RulePoint:
    """What one rule does at one hookpoint: the ``features`` best features of a timestep times ``multiplier``."""

    rule: ConceptRule
    concept: ConceptRecord
    calibration: Calibration
    sae: SaeRecord
    run: ScoringRun
    features: int
    multiplier: float

    @property
    def push(self) -> float:
        """How hard the rule pushes: |strength * multiplier|."""
        return abs(self.rule.strength * self.multiplier)


@dataclass(frozen=True, slots=True)
class Lookup:
    """A policy with its names resolved. ``retained`` are sorted names; ``problems`` is empty when all is found."""

    model: ModelRecord | None
    points: tuple[RulePoint, ...]
    retained: tuple[str, ...]
    problems: tuple[Problem, ...]


def look_up(policy: Policy, registry: FeatureSource) -> Lookup:
    """Resolve the model, the concepts with their operating points, and what is retained."""
    models = {model.name: model for model in registry.models()}
    concepts = {concept.name: concept for concept in registry.concepts()}
    problems: list[Problem] = []
    model = models.get(policy.model)
    if model is None:
        problems.append(_problem(policy.model_place, _unknown("model", policy.model, models)))
    points: list[RulePoint] = []
    for number, rule in enumerate(policy.concepts):
        if rule.concept not in concepts:
            problems.append(_problem(rule.place, _unknown("concept", rule.concept, concepts)))
        elif any(rule.concept == earlier.concept for earlier in policy.concepts[:number]):
            problems.append(_problem(rule.place, f"concept {quote(rule.concept)} has two rules; keep one"))
        elif model is not None:
            points += _points(rule, concepts[rule.concept], model, registry, problems)
    problems += _several_runs(points)
    retained = _retained(policy, concepts, problems)
    return Lookup(model, tuple(points), retained, tuple(problems))


def _points(
    rule: ConceptRule, concept: ConceptRecord, model: ModelRecord, registry: FeatureSource, problems: list[Problem]
) -> list[RulePoint]:
    calibration = registry.calibration(model.name, concept.name)
    if calibration is None or not calibration.points:
        message = (
            f"concept {quote(concept.name)} has no calibration for model {quote(model.name)}, so no strength is known "
            f'for it. Remove the rule, or calibrate the concept; see "saeuron-guard registry show {concept.name}".'
        )
        problems.append(_problem(rule.place, message))
        return []
    return [
        RulePoint(
            rule=rule,
            concept=concept,
            calibration=calibration,
            sae=registry.sae(point.sae),
            run=registry.run(point.run),
            features=point.features if rule.max_features is None else rule.max_features,
            multiplier=point.multiplier if rule.multiplier is None else rule.multiplier,
        )
        for point in calibration.points
    ]


def _several_runs(points: Iterable[RulePoint]) -> Iterable[Problem]:
    """One hookpoint has one table of timesteps, so all its rules need the same SAE and scoring run."""
    first: dict[str, RulePoint] = {}
    for point in points:
        other = first.setdefault(point.sae.hookpoint, point)
        if (other.sae.name, other.run.name) != (point.sae.name, point.run.name):
            yield _problem(
                point.rule.place,
                f"concept {quote(point.concept.name)} is calibrated at {point.sae.hookpoint} with run "
                f"{quote(point.run.name)}, but {quote(other.concept.name)} with run {quote(other.run.name)}; a guard "
                f"takes one run for each hookpoint. Calibrate both with the same run, or put them in two policies.",
            )


def _retained(policy: Policy, concepts: dict[str, ConceptRecord], problems: list[Problem]) -> tuple[str, ...]:
    domains = {concept.domain for concept in concepts.values()}
    mistakes = [_unknown("domain", domain, domains) for domain in policy.retain.domains if domain not in domains]
    mistakes += [_unknown("concept", name, concepts) for name in policy.retain.concepts if name not in concepts]
    problems += [_problem(policy.retain.place, mistake) for mistake in mistakes]
    removed = {rule.concept for rule in policy.concepts}
    wanted = {concept.name for concept in concepts.values() if concept.domain in policy.retain.domains}
    return tuple(sorted((wanted | set(policy.retain.concepts)) - removed))


def _unknown(kind: str, name: str, known: Iterable[str]) -> str:
    hint = MODELS_HINT if kind == "model" else LIST_HINT
    return f"unknown {kind} {quote(name)}.{did_you_mean(name, known)} {hint}"


def _problem(place: Place, message: str) -> Problem:
    return Problem(place.file, place.line, place.column, message)
