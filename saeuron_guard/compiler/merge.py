"""Settles which rule edits a feature that several rules chose."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from saeuron_guard.compiler.config import Merge
from saeuron_guard.names import feature_name
from saeuron_guard.registry.records import FeatureScore


@dataclass(frozen=True, slots=True)
class Claim:
    """The features of ``sae`` that the rule of ``concept`` chose; ``push`` is the rule's |strength * multiplier|.

    ``idle``: the rule edits nothing and only watches.
    """

    concept: str
    sae: str
    push: float
    idle: bool
    chosen: tuple[FeatureScore, ...]

    @property
    def rank(self) -> tuple[float, str]:
        """Sorts claims that edit, strongest first: the largest push, the first concept by name."""
        return (-self.push, self.concept)


def merge(claims: Iterable[Claim]) -> tuple[tuple[Claim, ...], tuple[Merge, ...]]:
    """Give each feature of an SAE, at each timestep, to the strongest claim that chose it there.

    So a feature is edited once in every denoising step, and no rule gets less than it asked for.  Rules that only watch
    take no feature from anybody and lose none.
    Neither result depends on the order of ``claims``, and merging in parts gives the same claims as merging all at
    once.  Concepts are unique within an SAE.
    Returns the claims by (SAE, concept), without what stronger ones took, and the record of what was settled.
    """
    ordered = sorted(claims, key=lambda claim: (claim.sae, claim.concept))
    strongest: dict[tuple[str, int, int], Claim] = {}
    for claim in sorted((claim for claim in ordered if not claim.idle), key=lambda claim: claim.rank):
        for score in claim.chosen:
            strongest.setdefault((claim.sae, score.index, score.timestep), claim)

    lost: dict[tuple[str, int, str], list[tuple[Claim, Claim, int]]] = defaultdict(list)
    kept: list[Claim] = []
    for claim in ordered:
        own: list[FeatureScore] = []
        for score in claim.chosen:
            winner = claim if claim.idle else strongest[claim.sae, score.index, score.timestep]
            if winner is claim:
                own.append(score)
            else:
                lost[claim.sae, score.index, winner.concept].append((winner, claim, score.timestep))
        kept.append(replace(claim, chosen=tuple(own)))
    return tuple(kept), tuple(_record(index, lost[sae, index, winner]) for sae, index, winner in sorted(lost))


def _record(index: int, losses: Sequence[tuple[Claim, Claim, int]]) -> Merge:
    """What one rule (the first of each loss) took of one feature from others (the second), and at which timesteps."""
    winner = losses[0][0]
    losers = {loser.concept: loser.push for _, loser, _ in losses}
    timesteps = len({timestep for _, _, timestep in losses})
    against = ", ".join(f"{losers[name]:g} of {name}" for name in sorted(losers))
    why = (
        f"at {timesteps} shared timestep{'' if timesteps == 1 else 's'}, "
        f"|strength x multiplier| is {winner.push:g} of {winner.concept} against {against}"
    )
    if winner.push in losers.values():
        why += "; of equals the first name"
    return Merge(feature_name(winner.sae, index), winner.concept, tuple(sorted(losers)), why)
