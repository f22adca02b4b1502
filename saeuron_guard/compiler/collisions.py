"""Finds the edited features that a retained concept needs as well."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from saeuron_guard.compiler.config import Collision
from saeuron_guard.compiler.merge import Claim
from saeuron_guard.compiler.select import best_features, rounded
from saeuron_guard.compiler.source import FeatureSource
from saeuron_guard.names import feature_name


def collisions(
    claim: Claim, run: str, count: int, retained: Sequence[str], registry: FeatureSource
) -> Iterable[Collision]:
    """One record for each (feature of ``claim``, retained concept) that meet among the ``count`` best of a timestep.

    Only timesteps at which the claim edits the feature count; ``score`` is the retained concept's best among them.
    """
    edited = {(score.index, score.timestep) for score in claim.chosen}
    for concept in retained:
        best: dict[int, float] = {}
        for score in best_features(registry.scores(run, concept, max_rank=count), count):
            if (score.index, score.timestep) in edited:
                best[score.index] = max(score.score, best.get(score.index, 0.0))
        for index in sorted(best):
            yield Collision(feature_name(claim.sae, index), claim.concept, concept, rounded(best[index]))
