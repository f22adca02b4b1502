"""How strongly a feature belongs to a concept: pure functions of the concept statistics, each under its own name."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from saeuron_guard.discovery.concept_statistics import Array, Counts, Moments, StatisticsSource


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


def moments_of_others(moments: Moments, count: Counts) -> Moments:
    """Of each concept of a domain, the moments over the positions of all others together, each (C, num_latents).

    ``count`` (C,): positions of each concept.
    The others are pooled: a concept with more prompts weighs more, as in "all prompts that do not ask for c".
    A concept alone in its domain has no others: zeros.
    """
    figures = (moments.mean, moments.second, moments.rate)
    return Moments(*(_pooled_others(figure, count) for figure in figures))


def _pooled_others(values: Array, count: Counts) -> Array:
    """sum_{d != c} n_d v_d / sum_{d != c} n_d for each c: the sums of those before and after c.

    Total less own would be quicker, and lose what the others have where c has almost all.
    """
    weighted = values * count[:, None].astype(np.float64)
    sums = np.zeros_like(weighted)
    np.cumsum(weighted[:-1], axis=0, out=sums[1:])
    after = np.zeros_like(weighted[0])
    for place in range(len(values) - 2, -1, -1):
        after += weighted[place + 1]
        sums[place] += after
    sums /= np.maximum(count.sum() - count, 1)[:, None]
    return sums.astype(np.float32)


@dataclass(frozen=True, slots=True)
class ScoredFeatures:
    """The best features of every concept and timestep, best first; all (C, T, K), in the registry's words."""

    index: npt.NDArray[np.int32]
    score: Array
    mean: Array
    mean_others: Array
    threshold: Array
    firing_rate: Array


def score_features(statistics: StatisticsSource, method: str, top: int) -> ScoredFeatures:
    """Rank features by ``method`` (a key of ``METHODS``) and keep the ``top`` best; ties go to the smaller index."""
    steps = [_score_timestep(statistics, place, method, top) for place in range(len(statistics.timesteps))]
    return ScoredFeatures(*(np.stack(figures, axis=1) for figures in zip(*steps, strict=True)))


def _score_timestep(statistics: StatisticsSource, place: int, method: str, top: int) -> list[npt.NDArray[np.generic]]:
    """The figures of ScoredFeatures at one timestep, each (C, K)."""
    moments, count, table = statistics.at(place), statistics.count[:, place], statistics.table
    domains = []
    for domain in table.domains:
        members = table.members(domain)
        target = moments.of(members)
        others = moments_of_others(target, count[members])
        score = METHODS[method](target, others)
        best = best_first(score, top)
        above = np.broadcast_to(threshold(target.mean), score.shape)
        figures = (score, target.mean, others.mean, above, target.rate)
        domains.append((best.astype(np.int32), *(np.take_along_axis(figure, best, -1) for figure in figures)))
    return [np.concatenate(figure) for figure in zip(*domains, strict=True)]


def threshold(mean: Array) -> Array:
    """Mean over the concepts (C, num_latents) of one domain of mu(i,t,.): above it a position is edited."""
    return np.asarray(mean.mean(0))


def best_first(score: Array, count: int) -> npt.NDArray[np.int64]:
    """Where the ``count`` largest of each row (..., num_latents) are, best first; of equals, the smaller index.

    As a stable sort of the whole row, which takes ten times as long.
    """
    count = min(count, score.shape[-1])
    least = np.partition(score, -count, axis=-1)[:, -count]
    rows = []
    for row, bound in zip(score, least, strict=True):
        candidates = np.flatnonzero(row >= bound)
        rows.append(candidates[np.argsort(-row[candidates], kind="stable")[:count]])
    return np.stack(rows)
