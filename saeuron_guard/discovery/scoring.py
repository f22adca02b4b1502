"""How strongly a feature belongs to a concept: pure functions of the concept statistics, each under its own name."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from saeuron_guard.discovery.statistics import Array, ConceptStatistics


@dataclass(frozen=True, slots=True)
class Moments:
    """Latents over a group of positions, each (..., num_latents): mean, mean square, share of positions above 0."""

    mean: Array
    second: Array
    rate: Array


def paper_score(mean: Array, mean_others: Array) -> Array:
    """mu(i,t,c) / sum_j mu(j,t,c)  -  mu(i,t,not c) / sum_j mu(j,t,not c), in [-1, 1]; both (..., num_latents).

    Implements the feature score of SAeUron, arXiv 2501.18052; deviates: where nothing fires at all the
    share is 0, without the paper's small constant in the denominator.
    """
    return _share(mean) - _share(mean_others)


def _share(mean: Array) -> Array:
    total = mean.sum(-1, keepdims=True)
    return np.divide(mean, total, out=np.zeros_like(mean), where=total > 0)


def _paper(target: Moments, others: Moments) -> Array:
    return paper_score(target.mean, others.mean)


def difference(target: Moments, others: Moments) -> Array:
    """mu(i,t,c) - mu(i,t,not c), in units of the latents."""
    return target.mean - others.mean


def firing_rate(target: Moments, others: Moments) -> Array:
    """How much more often a position fires on the concept than elsewhere, in [-1, 1]."""
    return target.rate - others.rate


def gaussian_auroc(target: Moments, others: Moments) -> Array:
    """The chance that a position of the concept has the larger latent, in [0, 1], were both groups Gaussian.

    Phi((mu_c - mu_not_c) / sqrt(var_c + var_not_c)); 0.5 where both are constant and equal.
    Latents are far from Gaussian: a ranking, not a probability to quote.
    """
    spread = np.sqrt(np.maximum(_variance(target) + _variance(others), 1e-12))
    z = (target.mean - others.mean) / spread
    return np.asarray(0.5 * (1 + np.vectorize(math.erf, otypes=[np.float64])(z / math.sqrt(2))), dtype=np.float32)


def _variance(moments: Moments) -> Array:
    return moments.second - np.square(moments.mean)


METHODS: Final[dict[str, Callable[[Moments, Moments], Array]]] = {
    "paper": _paper,
    "difference": difference,
    "firing_rate": firing_rate,
    "gaussian_auroc": gaussian_auroc,
}


def moments_of(statistics: ConceptStatistics, concept: str) -> tuple[Moments, Moments]:
    """Of ``concept`` and of all other concepts of its domain together, each (T, num_latents).

    The others are pooled: a concept with more prompts weighs more, as in "all prompts that do not ask for c".
    A concept alone in its domain has no others: zeros.
    """
    at = statistics.table.names.index(concept)
    members = statistics.table.members(statistics.table.domain_of(concept))
    rest = [place for place in range(members.start, members.stop) if place != at]
    weight = statistics.count[rest].astype(np.float64)
    weight = weight / np.maximum(weight.sum(0), 1)

    def pooled(values: Array) -> Array:
        return np.einsum("ct,ctl->tl", weight, values[rest]).astype(np.float32)

    target = Moments(statistics.mean[at], statistics.second[at], statistics.rate[at])
    return target, Moments(pooled(statistics.mean), pooled(statistics.second), pooled(statistics.rate))


def threshold(statistics: ConceptStatistics, concept: str) -> Array:
    """Mean over the concepts of ``concept``'s domain of mu(i,t,.), (T, num_latents): above it a position is edited."""
    members = statistics.table.members(statistics.table.domain_of(concept))
    return np.asarray(statistics.mean[members].mean(0))


@dataclass(frozen=True, slots=True)
class ScoredFeatures:
    """The best features of every concept and timestep, best first; all (C, T, K), in the registry's words."""

    index: npt.NDArray[np.int32]
    score: Array
    mean: Array
    mean_others: Array
    threshold: Array
    firing_rate: Array


def score_features(statistics: ConceptStatistics, method: str, top: int) -> ScoredFeatures:
    """Rank features by ``method`` (a key of ``METHODS``) and keep the ``top`` best; ties go to the smaller index."""
    rows = []
    for concept in statistics.table.names:
        target, others = moments_of(statistics, concept)
        score = METHODS[method](target, others)
        best = np.argsort(-score, axis=-1, kind="stable")[:, :top]
        figures = (score, target.mean, others.mean, threshold(statistics, concept), target.rate)
        rows.append((best.astype(np.int32), *(np.take_along_axis(figure, best, -1) for figure in figures)))
    return ScoredFeatures(*(np.stack(column) for column in zip(*rows, strict=True)))
