"""Chooses the features that a concept's rule edits, at each calibrated timestep."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace

from saeuron_guard.compiler.config import FeatureEdit
from saeuron_guard.compiler.points import RulePoint
from saeuron_guard.registry.records import FeatureScore


def best_features(scores: Iterable[FeatureScore], count: int) -> list[FeatureScore]:
    """The scores of the ``count`` best features of each timestep, as far as they speak for the concept (score > 0)."""
    return [score for score in scores if score.rank < count and score.score > 0]


def chosen_features(scores: Iterable[FeatureScore], point: RulePoint) -> list[FeatureScore]:
    """The scores that a rule's selection takes: the best ones, or those that it names, within its window.

    ``min_score`` holds for either; a feature that the policy names may otherwise have any score.
    """
    rule, indices = point.rule, point.indices
    least, window = rule.selection.min_score, rule.window
    if indices is None:
        found = best_features(scores, point.features)
    else:
        found = [score for score in scores if score.index in indices]
    return [
        score
        for score in found
        if (least is None or score.score >= least) and (window is None or score.timestep in window)
    ]


def with_threshold(score: FeatureScore, threshold: str) -> FeatureScore:
    """``score`` with the threshold that a policy's word for it means; see ``names.THRESHOLDS``."""
    if threshold == "mean":
        return score
    return replace(score, threshold=max(score.threshold, (score.mean + score.mean_others) / 2))


def edits_of(chosen: Iterable[FeatureScore], timesteps: Sequence[int]) -> tuple[FeatureEdit, ...]:
    """One edit for each chosen feature, by index; active at the timesteps at which the feature was chosen.

    ``chosen`` holds scores of one concept and one run, whose ``timesteps`` are given; each (feature, timestep) at most
    once.  Means and thresholds are 0 where the feature is not active.
    """
    position = {timestep: t for t, timestep in enumerate(timesteps)}
    by_feature: dict[int, dict[int, FeatureScore]] = defaultdict(dict)
    for score in chosen:
        by_feature[score.index][position[score.timestep]] = score
    return tuple(_edit(index, by_feature[index], len(timesteps)) for index in sorted(by_feature))


def _edit(index: int, at: dict[int, FeatureScore], length: int) -> FeatureEdit:
    best = min(at.values(), key=lambda score: (-score.score, score.rank, -score.timestep))
    return FeatureEdit(
        index=index,
        score=rounded(best.score),
        rank=best.rank,
        active=tuple(t in at for t in range(length)),
        mean=tuple(rounded(at[t].mean) if t in at else 0.0 for t in range(length)),
        threshold=tuple(rounded(at[t].threshold) if t in at else 0.0 for t in range(length)),
    )


def rounded(value: float) -> float:
    """``value`` to 6 significant digits: more than a half or single precision statistic holds, equal on all machines.

    Minus zero becomes zero, so that equal numbers have equal text.
    """
    return float(f"{value:.6g}") + 0.0
