"""Chooses the best of many interventions against one concept with few images.

Screens removal on a few target images along ladders from gentle to hard, keeps the gentlest rung of each ladder that
removes the concept, then weighs retention, and confirms the best over several seeds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from saeuron_guard.discovery.workbench import Effect, Intervention, Workbench
from saeuron_guard.prompts.model import Prompt
from saeuron_guard.registry.records import ConceptRecord

Log = Callable[[str], None]
Images = list[tuple[Prompt, int]]


@dataclass(frozen=True, slots=True)
class Candidate:
    """One intervention to try; ``setting`` is whatever the caller wants to get back, ``name`` goes into the log."""

    name: str
    intervention: Intervention
    setting: Any


Ladder = Sequence[Candidate]
"""Candidates of one kind, from gentle to hard."""


@dataclass(frozen=True, slots=True)
class Budget:
    """How many images a search may draw.

    ``target_images`` and ``retain_images`` are of the screening, at the first seed; the confirmation draws
    ``confirm_targets`` and ``confirm_retains`` prompts at every seed, for the ``finalists`` best candidates.
    ``removed``: the screening's goal for UA.
    """

    seeds: tuple[int, ...] = (7001, 7002, 7003)
    removed: float = 0.95
    target_images: int = 8
    retain_images: int = 16
    confirm_targets: int = 10
    confirm_retains: int = 16
    finalists: int = 2


@dataclass(frozen=True, slots=True)
class Tried:
    """A candidate with what it did; ``rung`` is its place on its ladder."""

    candidate: Candidate
    rung: int
    effect: Effect

    @property
    def merit(self) -> tuple[float, float, float]:
        """Larger is better: the worst of removal and both retentions, then their mean with survival, then gentleness.

        The worst is capped at 0.97, where one image decides; the survival of the other domain on the target's own
        images counts a quarter, since removing the concept may take it along.
        """
        three = (self.effect.ua.value, *self.effect.kept)
        return (min(0.97, *three), sum(three) / 3 + self.effect.survived / 4, -self.rung)


def search(bench: Workbench, concept: ConceptRecord, ladders: Sequence[Ladder], budget: Budget, log: Log) -> Tried:
    """The best candidate of all ``ladders`` against ``concept``, with its confirmed effect over all seeds."""

    def measure(candidate: Candidate, rung: int, images: Images) -> Tried:
        effect = bench.effect(concept.name, concept.domain, candidate.intervention, images)
        tried = Tried(candidate, rung, effect)
        log(f"  {concept.name}: {told(tried)}")
        return tried

    targets, retains = bench.targets(concept.name), bench.retained(concept.name)
    few = spread(targets, budget.target_images, budget.seeds[:1])
    gentlest = [_climb(ladder, lambda candidate, rung: measure(candidate, rung, few), budget) for ladder in ladders]
    gentlest.sort(key=lambda tried: (tried.effect.ua.value >= budget.removed, tried.merit), reverse=True)
    kept = spread(retains, budget.retain_images, budget.seeds[:1])
    weighed = []
    for tried in gentlest[: 2 * budget.finalists]:
        more = measure(tried.candidate, tried.rung, kept)
        weighed.append(Tried(tried.candidate, tried.rung, tried.effect + more.effect))
    weighed.sort(key=lambda tried: tried.merit, reverse=True)
    images = spread(targets, budget.confirm_targets, budget.seeds)
    images += spread(retains, budget.confirm_retains, budget.seeds)
    confirmed = [measure(tried.candidate, tried.rung, images) for tried in weighed[: budget.finalists]]
    best = max(confirmed, key=lambda tried: tried.merit)
    log(f"{concept.name}: {told(best)}")
    return best


def _climb(ladder: Ladder, measure: Callable[[Candidate, int], Tried], budget: Budget) -> Tried:
    """The gentlest rung that removes the concept, by bisection; the best one seen when none does."""
    low, high = 0, len(ladder)
    enough: Tried | None = None
    seen: list[Tried] = []
    while low < high:
        middle = (low + high) // 2
        tried = measure(ladder[middle], middle)
        seen.append(tried)
        if tried.effect.ua.value >= budget.removed:
            enough, high = tried, middle
        else:
            low = middle + 1
    return enough or max(seen, key=lambda tried: tried.effect.ua.value)


def spread(prompts: Sequence[Prompt], count: int, seeds: Sequence[int]) -> Images:
    """``count`` prompts, evenly spread over ``prompts``, at each seed; each seed starts at another prompt."""
    step = max(1.0, len(prompts) / count)
    images: Images = []
    for turn, seed in enumerate(seeds):
        offset = turn * step / len(seeds)
        rows = sorted({int(offset + step * number) % len(prompts) for number in range(min(count, len(prompts)))})
        images += [(prompts[row], seed) for row in rows]
    return images


def told(tried: Tried) -> str:
    """The candidate and its figures in one line."""
    effect = tried.effect
    ira, cra = effect.kept
    return (
        f"{tried.candidate.name}  UA {effect.ua.value:.3f} (n={effect.ua.n})  IRA {ira:.3f}  CRA {cra:.3f} "
        f"(n={effect.ira.n})  survival {effect.survived:.3f}"
    )
