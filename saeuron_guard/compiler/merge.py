"""Settles which rule edits a feature that several rules chose."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from saeuron_guard.compiler.config import Merge
from saeuron_guard.names import feature_name
from saeuron_guard.registry.records import FeatureScore


@dataclass(frozen=True, slots=True)
class Choice:
    """One feature at one timestep, as the rule of ``concept`` chose it; ``push`` is the rule's |strength * multiplier|.

    ``idle``: the rule has strength 0 and only watches.
    """

    concept: str
    push: float
    idle: bool
    score: FeatureScore

    @property
    def rank(self) -> tuple[bool, float, str]:
        """Sorts choices, strongest first: those that edit, the largest push, the first concept by name."""
        return (self.idle, -self.push, self.concept)


@dataclass(frozen=True, slots=True)
class Claim:
    """What the rule of ``concept`` edits in ``sae``: after merging also what weaker rules chose of its features."""

    concept: str
    sae: str
    choices: tuple[Choice, ...]

    @property
    def scores(self) -> tuple[FeatureScore, ...]:
        """The feature scores of the choices."""
        return tuple(choice.score for choice in self.choices)


def merge(claims: Iterable[Claim]) -> tuple[tuple[Claim, ...], tuple[Merge, ...]]:
    """Give each feature of an SAE to one claim: the largest push, then the first concept by name.

    The owner edits the feature at every timestep at which any rule that edits chose it, each with the mean latent that
    the strongest of them has there: so no rule gets less than it asked for, and nothing is edited twice.
    Rules of strength 0 own what nobody edits and add no timesteps.
    Neither result depends on the order of ``claims``, and merging in parts gives the same claims as merging all at
    once.  Concepts are unique within an SAE.
    Returns the claims by (SAE, concept) and the record of what was settled.
    """
    ordered = sorted(claims, key=lambda claim: (claim.sae, claim.concept))
    owned: dict[tuple[str, str], list[Choice]] = defaultdict(list)
    merges: list[Merge] = []
    for (sae, index), choices in _by_feature(ordered):
        choices.sort(key=lambda choice: choice.rank)
        owner = choices[0]
        owned[sae, owner.concept] += _strongest_at_each_timestep(choices)
        if any(choice.concept != owner.concept for choice in choices):
            merges.append(_record(sae, index, choices))
    kept = tuple(replace(claim, choices=tuple(owned[claim.sae, claim.concept])) for claim in ordered)
    return kept, tuple(merges)


def _by_feature(claims: Sequence[Claim]) -> Iterable[tuple[tuple[str, int], list[Choice]]]:
    """All choices of each (SAE, feature), in the order of SAE and feature."""
    found = sorted(
        ((claim.sae, choice.score.index, choice) for claim in claims for choice in claim.choices),
        key=lambda row: row[:2],
    )
    for key, rows in groupby(found, key=lambda row: row[:2]):
        yield key, [choice for _, _, choice in rows]


def _strongest_at_each_timestep(choices: Sequence[Choice]) -> list[Choice]:
    """The first choice of each timestep, latest timestep first; idle ones only when the first choice is idle, too."""
    first: dict[int, Choice] = {}
    for choice in choices:
        if choice.idle == choices[0].idle:
            first.setdefault(choice.score.timestep, choice)
    return [first[timestep] for timestep in sorted(first, reverse=True)]


def _record(sae: str, index: int, choices: Sequence[Choice]) -> Merge:
    """What happened to a feature with several choosers; ``choices`` are sorted, strongest first."""
    owner = choices[0]
    losers = {choice.concept: choice.push for choice in choices if choice.concept != owner.concept}
    against = ", ".join(f"{losers[name]:g} of {name}" for name in sorted(losers))
    own = {choice.score.timestep for choice in choices if choice.concept == owner.concept}
    taken = {choice.score.timestep for choice in choices if choice.idle == owner.idle} - own
    why = f"|strength x multiplier| is {owner.push:g} of {owner.concept} against {against}"
    if owner.push in losers.values():
        why += "; of equals the first name"
    if taken:
        why += f"; at {len(taken)} of {len(own | taken)} timesteps with the means of those who chose it there"
    return Merge(feature_name(sae, index), owner.concept, tuple(sorted(losers)), why)
