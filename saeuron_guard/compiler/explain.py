"""Which features block which concept, and where each of them comes from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from saeuron_guard.compiler.compile import compile_with_points
from saeuron_guard.compiler.config import Collision, FeatureEdit, GuardConfig, HookpointConfig, Merge, Rule
from saeuron_guard.compiler.points import RulePoint
from saeuron_guard.compiler.source import FeatureSource
from saeuron_guard.errors import CompileError, Problem
from saeuron_guard.names import feature_name
from saeuron_guard.policy.model import Policy, Waiver
from saeuron_guard.registry.records import Review
from saeuron_guard.wording import did_you_mean, quote


@dataclass(frozen=True, slots=True)
class ExplainedFeature:
    """One feature that a rule edits: its best score and rank, and the timesteps at which it is edited, descending.

    ``review``: its newest review, in words, or ""; no guard is made with a feature that was rejected or quarantined.
    ``largest_mean`` is the largest mean latent on the concept's prompts among those timesteps.
    """

    feature: str
    score: float
    rank: int
    timesteps: tuple[int, ...]
    largest_mean: float
    review: str


@dataclass(frozen=True, slots=True)
class ExplainedPoint:
    """What a rule does at one hookpoint, best feature first, with the provenance of the SAE and of the scores."""

    hookpoint: str
    sae: str
    sae_digest: str
    run: str
    method: str
    statistics_digest: str
    calibrated_timesteps: tuple[int, ...]
    multiplier: float
    why: str
    features: tuple[ExplainedFeature, ...]
    sae_provenance: dict[str, object]
    run_provenance: dict[str, object]


@dataclass(frozen=True, slots=True)
class ExplainedConcept:
    """All that a guard does for one concept; ``figures`` are those of the calibration that chose the multiplier."""

    concept: str
    domain: str
    title: str
    action: str
    mode: str
    severity: str
    strength: float
    points: tuple[ExplainedPoint, ...]
    merges: tuple[Merge, ...]
    collisions: tuple[Collision, ...]
    figures: dict[str, float]
    calibration_provenance: dict[str, object]


@dataclass(frozen=True, slots=True)
class Explanation:
    """A policy explained, concept by concept, in the order of their names."""

    policy: str
    version: str
    policy_digest: str
    guard_digest: str
    model: str
    waivers: tuple[Waiver, ...]
    concepts: tuple[ExplainedConcept, ...]


def explain_policy(policy: Policy, registry: FeatureSource, concept: str | None = None) -> Explanation:
    """Explain ``policy``, or only its rule for ``concept``.

    Raises CompileError when the policy does not compile or has no such rule.
    """
    compiled = compile_with_points(policy, registry, refuse_reviewed=False)
    names = sorted(rule.concept for rule in policy.concepts)
    if concept is not None and concept not in names:
        message = f"no rule for concept {quote(concept)}.{did_you_mean(concept, names)} It has {', '.join(names)}."
        raise CompileError([Problem(policy.file, 0, 0, message)])
    config, reviews = compiled.config, registry.reviews()
    return Explanation(
        policy=config.policy_name,
        version=config.policy_version,
        policy_digest=config.policy_digest,
        guard_digest=config.digest,
        model=config.model,
        waivers=policy.waivers,
        concepts=tuple(
            _concept(config, [point for point in compiled.points if point.concept.name == name], reviews)
            for name in names
            if concept in {None, name}
        ),
    )


def _concept(config: GuardConfig, points: list[RulePoint], reviews: Mapping[str, Review]) -> ExplainedConcept:
    record, calibration = points[0].concept, points[0].calibration
    name = record.name
    return ExplainedConcept(
        concept=name,
        domain=record.domain,
        title=record.title,
        action=points[0].rule.action,
        mode=points[0].rule.mode,
        severity=points[0].rule.severity,
        strength=points[0].rule.strength,
        points=tuple(_point(point, *_rule_of(config, point), reviews) for point in points),
        merges=tuple(merge for merge in config.merges if name == merge.kept or name in merge.dropped),
        collisions=tuple(collision for collision in config.collisions if collision.concept == name),
        figures=calibration.figures,
        calibration_provenance=calibration.provenance,
    )


def _rule_of(config: GuardConfig, point: RulePoint) -> tuple[HookpointConfig, Rule]:
    return next(
        (hookpoint, rule)
        for hookpoint in config.hookpoints
        for rule in hookpoint.rules
        if (hookpoint.hookpoint, rule.concept) == (point.sae.hookpoint, point.concept.name)
    )


def _point(point: RulePoint, hookpoint: HookpointConfig, rule: Rule, reviews: Mapping[str, Review]) -> ExplainedPoint:
    best_first = sorted(rule.features, key=lambda edit: (-edit.score, edit.index))
    return ExplainedPoint(
        hookpoint=hookpoint.hookpoint,
        sae=hookpoint.sae,
        sae_digest=hookpoint.sae_digest,
        run=point.run.name,
        method=point.run.method,
        statistics_digest=hookpoint.statistics_digest,
        calibrated_timesteps=hookpoint.timesteps,
        multiplier=rule.multiplier,
        why=rule.why,
        features=tuple(_feature(edit, hookpoint, reviews) for edit in best_first),
        sae_provenance=point.sae.provenance,
        run_provenance=point.run.provenance,
    )


def _feature(edit: FeatureEdit, hookpoint: HookpointConfig, reviews: Mapping[str, Review]) -> ExplainedFeature:
    name = feature_name(hookpoint.sae, edit.index)
    review = reviews.get(name)
    return ExplainedFeature(
        feature=name,
        review=f"{review.verdict} by {review.by}: {review.why}" if review else "",
        score=edit.score,
        rank=edit.rank,
        timesteps=tuple(t for t, active in zip(hookpoint.timesteps, edit.active, strict=True) if active),
        largest_mean=max(edit.mean),
    )
