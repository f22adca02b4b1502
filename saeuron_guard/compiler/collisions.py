"""Finds the edited features that a retained concept needs as well."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from saeuron_guard.compiler.config import Collision
from saeuron_guard.compiler.merge import Claim
from saeuron_guard.compiler.select import rounded
from saeuron_guard.compiler.source import FeatureSource
from saeuron_guard.names import feature_name


def collisions(
    claim: Claim, run: str, count: int, retained: Collection[str], registry: FeatureSource
) -> Iterable[Collision]:
    """One record for each (feature of ``claim``, retained concept) that meet among the ``count`` best of a timestep.

    Only timesteps at which the claim edits the feature count; ``score`` is the retained concept's best among them.
    """
    edited = [(score.index, score.timestep) for score in claim.chosen]
    for shared in registry.shared_features(run, edited, max_rank=count):
        if shared.concept in retained:
            yield Collision(feature_name(claim.sae, shared.index), claim.concept, shared.concept, rounded(shared.score))
