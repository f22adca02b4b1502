"""Compiles a policy into the configuration of a guard: look up, select, merge, order, pin."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from saeuron_guard.compiler.collisions import collisions
from saeuron_guard.compiler.config import Collision, GuardConfig, HookpointConfig, Rule
from saeuron_guard.compiler.files import guard_digest
from saeuron_guard.compiler.lookup import look_up
from saeuron_guard.compiler.merge import Claim, merge
from saeuron_guard.compiler.mistakes import refused_features, selection_mistake
from saeuron_guard.compiler.points import RulePoint
from saeuron_guard.compiler.select import chosen_features, edits_of, rounded, with_threshold
from saeuron_guard.compiler.source import FeatureSource
from saeuron_guard.compiler.waived import applied_waivers
from saeuron_guard.compiler.why import why
from saeuron_guard.errors import CompileError, Problem
from saeuron_guard.names import GUARD_FORMAT
from saeuron_guard.policy.model import Policy
from saeuron_guard.registry.records import Review


@dataclass(frozen=True, slots=True)
class Compiled:
    """A guard's configuration together with the operating points that it came from, by (concept, hookpoint)."""

    config: GuardConfig
    points: tuple[RulePoint, ...]


def compile_policy(policy: Policy, registry: FeatureSource) -> GuardConfig:
    """The guard that ``policy`` describes, from the registry's calibrations and scores.

    Pure: equal policies and registries give equal bytes, in any order of the rules.
    Raises CompileError with everything that the policy asks for and the registry cannot give.
    """
    return compile_with_points(policy, registry).config


def compile_with_points(policy: Policy, registry: FeatureSource, *, refuse_reviewed: bool = True) -> Compiled:
    """As ``compile_policy``, for callers that also explain where the configuration came from.

    Without ``refuse_reviewed``, features that were rejected or quarantined are taken all the same: to look at a policy
    that has to be replaced because of them, never to make a guard.
    """
    found = look_up(policy, registry)
    problems = list(found.problems)
    reviews = registry.reviews() if refuse_reviewed else {}
    selected = [(point, _claim(point, policy.threshold, registry, reviews, problems)) for point in found.points]
    if problems or found.model is None:
        raise CompileError(problems)
    claims, merges = merge(claim for _, claim in selected)
    kept = {(claim.sae, claim.concept): claim for claim in claims}
    points = sorted(found.points, key=lambda point: (point.sae.hookpoint, point.concept.name))
    config = GuardConfig(
        format=GUARD_FORMAT,
        policy_name=policy.name,
        policy_version=policy.version,
        policy_digest=policy.digest,
        model=found.model.name,
        model_fingerprint=found.model.fingerprint,
        branches=policy.branches,
        hookpoints=_hookpoints(points, kept),
        merges=merges,
        collisions=_collisions(points, kept, found.retained, registry),
        waivers=applied_waivers(policy.waivers),
        digest="",
    )
    return Compiled(replace(config, digest=guard_digest(config)), tuple(points))


def _claim(
    point: RulePoint,
    threshold: str,
    registry: FeatureSource,
    reviews: Mapping[str, Review],
    problems: list[Problem],
) -> Claim:
    """The features that a rule chooses at a hookpoint, each with the threshold that the policy asks for."""
    best_only = None if point.indices else point.features
    scores = registry.scores(point.run.name, point.concept.name, max_rank=best_only)
    chosen = [with_threshold(score, threshold) for score in chosen_features(scores, point)]
    mistakes = [selection_mistake(point, scores, chosen), *refused_features(point, chosen, reviews)]
    problems += [point.rule.place.problem(mistake) for mistake in mistakes if mistake]
    return Claim(point.concept.name, point.sae.name, point.push, not point.rule.edits, tuple(chosen))


def _hookpoints(points: Iterable[RulePoint], kept: dict[tuple[str, str], Claim]) -> tuple[HookpointConfig, ...]:
    by_hookpoint: dict[str, list[RulePoint]] = defaultdict(list)
    for point in points:
        by_hookpoint[point.sae.hookpoint].append(point)
    return tuple(_hookpoint(by_hookpoint[name], kept) for name in sorted(by_hookpoint))


def _hookpoint(points: Sequence[RulePoint], kept: dict[tuple[str, str], Claim]) -> HookpointConfig:
    sae, run = points[0].sae, points[0].run
    return HookpointConfig(
        hookpoint=sae.hookpoint,
        sae=sae.name,
        sae_path=sae.path,
        sae_digest=sae.digest,
        statistics_digest=run.statistics_digest,
        d_in=sae.d_in,
        num_latents=sae.num_latents,
        k=sae.k,
        timesteps=run.timesteps,
        largest_gap=largest_gap(run.timesteps),
        rules=tuple(_rule(point, kept[sae.name, point.concept.name]) for point in points),
    )


def _rule(point: RulePoint, claim: Claim) -> Rule:
    return Rule(
        concept=point.concept.name,
        domain=point.concept.domain,
        action=point.rule.action,
        mode=point.rule.mode,
        severity=point.rule.severity,
        share=rounded(point.rule.share),
        strength=rounded(point.rule.strength),
        multiplier=rounded(point.multiplier),
        features=edits_of(claim.chosen, point.run.timesteps),
        why=why(point, claim),
    )


def largest_gap(timesteps: Sequence[int]) -> int:
    """The largest distance of a scheduler's timestep from the nearest calibrated one at which its table still holds.

    That is the widest spacing of the calibrated timesteps; with a single one, 0: only that timestep itself.
    """
    return max((earlier - later for earlier, later in pairwise(timesteps)), default=0)


def _collisions(
    points: Iterable[RulePoint],
    kept: dict[tuple[str, str], Claim],
    retained: Sequence[str],
    registry: FeatureSource,
) -> tuple[Collision, ...]:
    found: list[Collision] = []
    wanted = frozenset(retained)
    for point in points:
        claim = kept[point.sae.name, point.concept.name]
        if point.rule.edits:
            found += collisions(claim, point.run.name, point.features, wanted, registry)
    return tuple(sorted(found, key=lambda collision: (collision.feature, collision.concept, collision.retained)))
