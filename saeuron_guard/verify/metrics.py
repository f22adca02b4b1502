"""The figures of a verification and their uncertainty, each one pure function."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from saeuron_guard.names import CONFIDENCE


@cache
def _quantile(confidence: float) -> float:
    """The normal quantile z of a two-sided interval at this confidence level."""
    return NormalDist().inv_cdf(0.5 + confidence / 2)


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure with the bounds of its two-sided interval, at ``names.CONFIDENCE`` unless said otherwise."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class PairCounts:
    """The same n things judged right or wrong twice, first without and then with the guard."""

    both: int = 0
    base_only: int = 0
    guarded_only: int = 0
    neither: int = 0

    @property
    def n(self) -> int:
        """Number of pairs."""
        return self.both + self.base_only + self.guarded_only + self.neither

    @property
    def base(self) -> int:
        """How many are right without the guard."""
        return self.both + self.base_only

    @property
    def guarded(self) -> int:
        """How many are right with the guard."""
        return self.both + self.guarded_only


def wilson(successes: int, n: int, confidence: float = CONFIDENCE) -> Interval:
    """Wilson's score interval of a share at a confidence level, without continuity correction.

    With p = successes / n and z the normal quantile of the confidence level:
    ``(p + z^2/2n +- z sqrt(p (1 - p)/n + z^2/4n^2)) / (1 + z^2/n)``.
    Source: E. B. Wilson, J. Am. Stat. Assoc. 22 (1927) 209-212; as method 3 in R. G. Newcombe, Stat. Med. 17 (1998)
    857-872. Raises ValueError unless 0 <= successes <= n and n > 0.
    """
    if not 0 <= successes <= n or n == 0:
        raise ValueError(f"{successes} of {n} is no share")
    share, z = successes / n, _quantile(confidence)
    shrink = 1 + z**2 / n
    centre = (share + z**2 / (2 * n)) / shrink
    half = z * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2)) / shrink
    # At 0 of n and n of n the exact bound is the share itself; rounding must not move it past it.
    return Interval(share, min(max(centre - half, 0.0), share), max(min(centre + half, 1.0), share))


def paired_loss(counts: PairCounts) -> Interval:
    """Loss of accuracy, share right without the guard minus share right with it, by Newcombe's method 10.

    With a, b, c, d = both, base only, guarded only, neither; p1 = (a + b)/n and p2 = (a + c)/n with Wilson bounds
    (l1, u1) and (l2, u2); phi = (ad - bc) / sqrt((a + b)(c + d)(a + c)(b + d)), where a positive numerator is first
    lowered by n/2 (not below 0), and phi = 0 when a margin is empty:
    ``low = p1 - p2 - sqrt((p1 - l1)^2 - 2 phi (p1 - l1)(u2 - p2) + (u2 - p2)^2)``,
    ``high = p1 - p2 + sqrt((u1 - p1)^2 - 2 phi (u1 - p1)(p2 - l2) + (p2 - l2)^2)``.
    Source: R. G. Newcombe, Stat. Med. 17 (1998) 2635-2650. Raises ValueError when there is no pair.
    """
    n = counts.n
    first, second = wilson(counts.base, n), wilson(counts.guarded, n)
    loss = first.value - second.value
    phi = _phi(counts)
    below = _square_and_add(first.value - first.low, second.high - second.value, phi)
    above = _square_and_add(first.high - first.value, second.value - second.low, phi)
    return Interval(loss, loss - below, loss + above)


def _phi(counts: PairCounts) -> float:
    margins = counts.base * (counts.n - counts.base) * counts.guarded * (counts.n - counts.guarded)
    if margins == 0:
        return 0.0
    numerator = counts.both * counts.neither - counts.base_only * counts.guarded_only
    corrected = max(numerator - counts.n / 2, 0.0) if numerator > 0 else numerator
    return corrected / math.sqrt(margins)


def _square_and_add(first: float, second: float, phi: float) -> float:
    return math.sqrt(max(first**2 - 2 * phi * first * second + second**2, 0.0))


_CMMD_SIGMA = 10.0
_CMMD_SCALE = 1000.0


def cmmd(base: NDArray[np.float32], guarded: NDArray[np.float32]) -> float:
    """CLIP-MMD between two sets of unit-norm image features, [n, d] and [m, d]; 0 for equal distributions.

    ``1000 (mean_{i != j} k(x_i, x_j) + mean_{i != j} k(y_i, y_j) - 2 mean_{i, j} k(x_i, y_j))`` with the Gaussian
    kernel ``k(x, y) = exp(-|x - y|^2 / (2 10^2))``: the unbiased estimator, which may fall slightly below 0, of the
    distance of Jayasumana et al., arXiv 2401.09603 (their code keeps the diagonal terms, so it never does).
    Raises ValueError unless both sets hold at least two features of one width.
    """
    if base.ndim != 2 or guarded.ndim != 2 or base.shape[1] != guarded.shape[1]:
        raise ValueError(f"features of shapes {base.shape} and {guarded.shape} cannot be compared")
    if min(len(base), len(guarded)) < 2:
        raise ValueError("the unbiased estimator needs two images on each side")
    within = _mean_off_diagonal(_kernel_minus_one(base, base)) + _mean_off_diagonal(_kernel_minus_one(guarded, guarded))
    between = float(_kernel_minus_one(base, guarded).mean())
    return _CMMD_SCALE * (within - 2 * between)


def _kernel_minus_one(x: NDArray[np.float32], y: NDArray[np.float32]) -> NDArray[np.float64]:
    """k(x, y) - 1, whose ones would cancel anyway: at this width all kernel values lie within 2 % of 1."""
    left, right = x.astype(np.float64), y.astype(np.float64)
    squared = (left**2).sum(1)[:, None] + (right**2).sum(1)[None, :] - 2 * left @ right.T
    kernel: NDArray[np.float64] = np.expm1(-np.maximum(squared, 0.0) / (2 * _CMMD_SIGMA**2))
    return kernel


def _mean_off_diagonal(kernel: NDArray[np.float64]) -> float:
    n = len(kernel)
    return float((kernel.sum() - np.trace(kernel)) / (n * (n - 1)))
