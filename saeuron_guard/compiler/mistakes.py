"""What can be wrong with the features that a rule selects, in words for the policy's author."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from saeuron_guard.compiler.points import RulePoint
from saeuron_guard.names import feature_name
from saeuron_guard.policy.model import Window
from saeuron_guard.registry.records import FeatureScore, Review
from saeuron_guard.wording import quote


def selection_mistake(point: RulePoint, scores: Sequence[FeatureScore], chosen: Sequence[FeatureScore]) -> str:
    """What is wrong with a selection; nothing if it is as asked for."""
    if point.indices:
        missing = sorted(point.indices - {score.index for score in scores})
        if missing:
            return _not_kept(point, missing, scores)
    else:
        kept = max(Counter(score.timestep for score in scores).values(), default=0)
        if 0 < kept < point.features:
            return _too_few(point, kept)
    if chosen:
        return ""
    window = point.rule.window
    if window and not any(timestep in window for timestep in point.run.timesteps):
        return _outside(point, window)
    return _nothing_selected(point)


def refused_features(point: RulePoint, chosen: Sequence[FeatureScore], reviews: Mapping[str, Review]) -> Iterator[str]:
    """Chosen features whose newest review says that no guard may be built on them."""
    for name in dict.fromkeys(feature_name(point.sae.name, score.index) for score in chosen):
        review = reviews.get(name)
        if review is not None and review.verdict != "approved":
            yield (
                f"feature {name}, which the rule for {quote(point.concept.name)} would use, was {review.verdict} by "
                f"{review.by} on {review.when}: {review.why}. Name others in selection.features, calibrate the concept "
                f'without it, or have it approved (saeuron-guard registry approve {name} --why "...").'
            )


def _not_kept(point: RulePoint, missing: Sequence[int], scores: Sequence[FeatureScore]) -> str:
    names = ", ".join(feature_name(point.sae.name, index) for index in missing)
    known = sorted({score.index for score in scores})
    few = ", ".join(map(str, known[:20])) + (", ..." if len(known) > 20 else "")
    return (
        f"run {quote(point.run.name)} keeps no scores of {names} for concept {quote(point.concept.name)}, so nothing "
        f"is known about it there. It keeps those of {few or 'no feature'}."
    )


def _outside(point: RulePoint, window: Window) -> str:
    timesteps = point.run.timesteps
    return (
        f"none of the calibrated timesteps of run {quote(point.run.name)} ({timesteps[0]} to {timesteps[-1]}) lies "
        f"between {window.first} and {window.last}, so the rule would do nothing. Widen timesteps, or leave it out."
    )


def _too_few(point: RulePoint, kept: int) -> str:
    return (
        f"the rule for {quote(point.concept.name)} asks for the {point.features} best features of {point.sae.name}, "
        f"but run {quote(point.run.name)} keeps only {kept} of each timestep. Set max_features to at most {kept}, "
        f"or score the concept anew and keep more."
    )


def _nothing_selected(point: RulePoint) -> str:
    if point.rule.selection.min_score is not None or point.rule.window is not None:
        return (
            f"no feature of {point.sae.name} is left for concept {quote(point.concept.name)}: none has a score of at "
            f"least {point.rule.selection.min_score or 0:g} at a timestep of the rule. Lower selection.min_score, or "
            f"widen timesteps."
        )
    return (
        f"no feature of {point.sae.name} speaks for concept {quote(point.concept.name)}: none of its {point.features} "
        f"best features in run {quote(point.run.name)} has a score above 0 at any timestep, so the rule would do "
        f"nothing. Score the concept anew, or remove the rule."
    )
