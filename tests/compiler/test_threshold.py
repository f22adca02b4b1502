"""Above which latent a feature is edited, by the policy's word for it."""

from __future__ import annotations

import pytest

from saeuron_guard.compiler.select import with_threshold
from saeuron_guard.registry.records import FeatureScore


@pytest.mark.parametrize(
    ("threshold", "mean", "others", "stated", "expected"),
    [
        ("mean", 16.0, 1.0, 2.0, 2.0),
        ("midpoint", 16.0, 1.0, 2.0, 8.5),
        ("midpoint", 3.0, 1.0, 2.5, 2.5),
    ],
)
def test_threshold(threshold: str, mean: float, others: float, stated: float, expected: float) -> None:
    """The paper's stays as scored; the midpoint lies between both means, and never below the paper's."""
    score = FeatureScore(7, 901, 0, 0.1, mean, others, stated, 0.5)
    assert with_threshold(score, threshold).threshold == expected
    assert with_threshold(score, threshold).mean == mean
