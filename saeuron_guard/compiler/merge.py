"""Settles which rule edits a feature that several rules chose."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace

from saeuron_guard.compiler.config import Merge
from saeuron_guard.names import feature_name
from saeuron_guard.registry.records import FeatureScore


@dataclass(frozen=True, slots=True)
class Claim:
    """The features of ``sae`` that the rule of ``concept`` wants to edit; ``push`` is its |strength * multiplier|."""

    concept: str
    sae: str
    push: float
    chosen: tuple[FeatureScore, ...]


def merge(claims: Iterable[Claim]) -> tuple[tuple[Claim, ...], tuple[Merge, ...]]:
    """Give each (SAE, feature, timestep) to one claim: the largest push, then the first concept by name.

    A feature is thus edited once in every denoising step, and a weaker rule keeps it at the timesteps that no stronger
    rule chose.  Neither result depends on the order of ``claims``, and merging in parts gives the same claims as
    merging all at once.  Concepts are unique within an SAE.  Returns the claims by (SAE, concept), without what they lost, and
    the record of what was lost.
    """
    ordered = sorted(claims, key=lambda claim: (claim.sae, claim.concept))
    strongest: dict[tuple[str, int, int], Claim] = {}
    for claim in sorted(ordered, key=lambda claim: (-claim.push, claim.concept)):
        for score in claim.chosen:
            strongest.setdefault((claim.sae, score.index, score.timestep), claim)

    kept: list[Claim] = []
    lost: dict[tuple[str, int, str], list[tuple[Claim, int]]] = defaultdict(list)
    winners: dict[tuple[str, str], Claim] = {(claim.sae, claim.concept): claim for claim in ordered}
    for claim in ordered:
        mine: list[FeatureScore] = []
        for score in claim.chosen:
            winner = strongest[claim.sae, score.index, score.timestep]
            if winner is claim:
                mine.append(score)
            else:
                lost[claim.sae, score.index, winner.concept].append((claim, score.timestep))
        kept.append(replace(claim, chosen=tuple(mine)))
    merges = tuple(
        _record(winners[sae, concept], index, lost[sae, index, concept]) for sae, index, concept in sorted(lost)
    )
    return tuple(kept), merges


def _record(winner: Claim, index: int, losses: list[tuple[Claim, int]]) -> Merge:
    losers = {claim.concept: claim for claim, _ in losses}
    timesteps = len({timestep for _, timestep in losses})
    against = ", ".join(f"{losers[name].push:g} of {name}" for name in sorted(losers))
    return Merge(
        feature=feature_name(winner.sae, index),
        kept=winner.concept,
        dropped=tuple(sorted(losers)),
        why=(
            f"chosen by all of them at {timesteps} timestep{'s' if timesteps > 1 else ''}; "
            f"|strength x multiplier| {winner.push:g} of {winner.concept} against {against}"
            + ("; equal, so the first name" if any(claim.push == winner.push for claim in losers.values()) else "")
        ),
    )
