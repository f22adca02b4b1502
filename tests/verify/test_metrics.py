"""Intervals and distances against published values and against what must hold for all inputs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from saeuron_guard.verify.metrics import PairCounts, cmmd, paired_loss, wilson

counts = st.builds(PairCounts, *[st.integers(0, 60)] * 4).filter(lambda pairs: pairs.n > 0)


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [
        # R. G. Newcombe, Stat. Med. 17 (1998) 857-872, table I, method 3.
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_gives_newcombes_published_bounds(successes: int, n: int, low: float, high: float) -> None:
    """Method 3 of the paper's table is Wilson's interval."""
    interval = wilson(successes, n)
    assert (interval.low, interval.high) == (pytest.approx(low, abs=5e-5), pytest.approx(high, abs=5e-5))


@pytest.mark.parametrize(
    ("pairs", "low", "high"),
    [
        # R. G. Newcombe, Stat. Med. 17 (1998) 2635-2650, table II, method 10.
        (PairCounts(36, 12, 2, 0), 0.0569, 0.3404),
        (PairCounts(54, 0, 0, 0), -0.0664, 0.0664),
        # M. W. Fagerland et al., Statistical Analysis of Contingency Tables (2017), chapter 8; R contingencytables.
        (PairCounts(59, 6, 16, 80), -0.1186, -0.0046),
        (PairCounts(1, 1, 7, 12), -0.5069, -0.0256),
    ],
)
def test_paired_loss_gives_the_published_bounds(pairs: PairCounts, low: float, high: float) -> None:
    """The paired interval is Newcombe's method 10, with its correction of phi."""
    interval = paired_loss(pairs)
    assert (interval.low, interval.high) == (pytest.approx(low, abs=5e-5), pytest.approx(high, abs=5e-5))


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_holds_its_share_within_0_and_1_and_mirrors(pair: tuple[int, int]) -> None:
    """The interval contains the share, stays in [0, 1] and is the mirror image of that of the failures."""
    successes, n = pair
    interval, mirrored = wilson(successes, n), wilson(n - successes, n)
    assert 0 <= interval.low <= interval.value <= interval.high <= 1
    assert interval.low == pytest.approx(1 - mirrored.high)


@given(st.integers(0, 20), st.integers(20, 40), st.integers(2, 10))
def test_wilson_narrows_with_more_of_the_same(successes: int, n: int, factor: int) -> None:
    """The same share of more images is more certain."""
    few, many = wilson(successes, n), wilson(successes * factor, n * factor)
    assert many.high - many.low < few.high - few.low


@given(counts)
def test_paired_loss_is_antisymmetric_and_holds_its_value(pairs: PairCounts) -> None:
    """Exchanging the two judgements turns the interval around 0."""
    interval = paired_loss(pairs)
    swapped = paired_loss(PairCounts(pairs.both, pairs.guarded_only, pairs.base_only, pairs.neither))
    assert interval.low <= interval.value <= interval.high
    assert interval.low == pytest.approx(-swapped.high)
    assert interval.low >= -1
    assert interval.high <= 1


def test_pairing_narrows_the_interval() -> None:
    """Two accuracies that fail on the same images differ less uncertainly than two that fail on different ones."""
    together, apart = paired_loss(PairCounts(80, 2, 2, 16)), paired_loss(PairCounts(66, 16, 16, 2))
    assert together.value == apart.value == 0
    assert together.high < apart.high


@pytest.mark.parametrize("pair", [(0, 0), (-1, 3), (4, 3)])
def test_a_share_of_nothing_is_an_error(pair: tuple[int, int]) -> None:
    """No images give no figure, instead of a figure of 0."""
    with pytest.raises(ValueError, match="no share"):
        wilson(*pair)


def features(seed: int, shift: float, n: int) -> np.ndarray:
    """Unit-norm random rows; ``shift`` moves their distribution."""
    rows = np.random.default_rng(seed).normal(size=(n, 16)) + shift
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def test_cmmd_is_the_mean_kernel_difference() -> None:
    """The value equals a direct sum over pairs with the paper's kernel and scale."""
    x, y = features(0, 0.0, 5), features(1, 0.5, 7)

    def kernel(a: np.ndarray, b: np.ndarray) -> float:
        return float(np.exp(-np.sum((a.astype(float) - b.astype(float)) ** 2) / 200))

    def within(z: np.ndarray) -> float:
        return float(np.mean([kernel(z[i], z[j]) for i in range(len(z)) for j in range(len(z)) if i != j]))

    between = float(np.mean([kernel(a, b) for a in x for b in y]))
    assert cmmd(x, y) == pytest.approx(1000 * (within(x) + within(y) - 2 * between), rel=1e-6)


def test_cmmd_is_unbiased_and_sees_a_shift() -> None:
    """Over many draws from one distribution it averages to 0, and a shifted distribution lies far above."""
    same = [cmmd(features(2 * seed, 0.0, 12), features(2 * seed + 1, 0.0, 12)) for seed in range(200)]
    shifted = [cmmd(features(2 * seed, 0.0, 12), features(2 * seed + 1, 1.0, 12)) for seed in range(20)]
    error = np.std(same) / np.sqrt(len(same))
    assert abs(np.mean(same)) < 3 * error
    assert np.mean(shifted) > 20 * error
    assert min(same) < 0 < max(same)


@pytest.mark.parametrize("shapes", [((1, 4), (3, 4)), ((3, 4), (3, 5)), ((3,), (3, 4))])
def test_cmmd_refuses_what_it_cannot_compare(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    """One image on a side or features of two widths are an error."""
    with pytest.raises(ValueError, match=r"two images|cannot be compared"):
        cmmd(*(np.zeros(shape, np.float32) for shape in shapes))
