"""Chooses the best of many interventions against one concept with few images.

Screens removal on a few target images along a ladder from gentle to hard, starts from the gentlest rung that removes
the concept, and weighs it and its neighbours over several seeds; goes to the next ladder when that is not enough.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
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

    ``screening`` target images at the first seed tell whether a rung removes the concept (UA at least ``removed``).
    ``targets`` and ``retains`` prompts at every seed tell what a rung does altogether; besides the one that screening
    found, up to ``steps`` of its neighbours are weighed like that.
    The gentlest rung that does well enough does so by a hair: one up to ``margin`` rungs harder is taken if that does
    well enough, too. ``doubtful_margin`` is for concepts that the judge misses often even in the unguarded images
    (more than ``missed`` of them): it calls such a concept removed when another judge still sees it.
    """

    seeds: tuple[int, ...] = (7001, 7002, 7003)
    removed: float = 0.95
    screening: int = 8
    targets: int = 8
    retains: int = 12
    steps: int = 3
    margin: int = 2
    doubtful_margin: int = 3
    missed: float = 0.1


@dataclass(frozen=True, slots=True)
class Tried:
    """A candidate with what it did; ``rung`` is its place on its ladder."""

    candidate: Candidate
    rung: int
    effect: Effect

    @property
    def worst(self) -> float:
        """The least of removal and both retentions."""
        return min(self.effect.ua.value, *self.effect.kept)

    @property
    def merit(self) -> tuple[float, float, float]:
        """Larger is better: the worst of removal and both retentions, then their mean with survival, then gentleness.

        The worst is capped at ``_ENOUGH``, where one image decides; the survival of the other domain on the target's
        own images counts a quarter, since removing the concept may take it along.
        """
        mean = (self.effect.ua.value + sum(self.effect.kept)) / 3
        return (min(_ENOUGH, self.worst), mean + self.effect.survived / 4, -self.rung)

    @property
    def enough(self) -> bool:
        """Whether looking further would be looking at noise."""
        return self.worst >= _ENOUGH and self.effect.survived >= _SURVIVES


_ENOUGH = 0.95
_SURVIVES = 0.75


def search(bench: Workbench, concept: ConceptRecord, ladders: Sequence[Ladder], budget: Budget, log: Log) -> Tried:
    """The best candidate against ``concept``, with its effect over all seeds.

    ``ladders`` from simple to complex: the first one with a rung that does well enough ends the search.
    """

    def measure(images: Images, candidate: Candidate, rung: int) -> Tried:
        effect = bench.effect(concept.name, concept.domain, candidate.intervention, images)
        tried = Tried(candidate, rung, effect)
        log(f"  {concept.name}: {told(tried)}")
        return tried

    targets, retains = bench.targets(concept.name), bench.retained(concept.name)
    screen = partial(measure, spread(targets, budget.screening, budget.seeds[:1]))
    many = spread(targets, budget.targets, budget.seeds) + spread(retains, budget.retains, budget.seeds)
    weigh = partial(measure, many)
    found: list[Tried] = []
    for ladder in ladders:
        start = _climb(ladder, screen, budget)
        found.append(_settle(ladder, start.rung, weigh, budget))
        if found[-1].enough:
            found.append(_with_margin(ladder, found[-1], weigh, budget))
            break
    best = found[-1] if found[-1].enough else max(found, key=lambda tried: tried.merit)
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


def _settle(ladder: Ladder, rung: int, measure: Callable[[Candidate, int], Tried], budget: Budget) -> Tried:
    """From ``rung``, step harder while removal is what falls short and gentler while retention is, if that pays."""
    best = measure(ladder[rung], rung)
    for _ in range(budget.steps):
        if best.enough:
            break
        rung += 1 if best.effect.ua.value < min(_ENOUGH, *best.effect.kept) else -1
        if not 0 <= rung < len(ladder):
            break
        tried = measure(ladder[rung], rung)
        if tried.merit <= best.merit:
            break
        best = tried
    return best


def _with_margin(ladder: Ladder, gentlest: Tried, measure: Callable[[Candidate, int], Tried], budget: Budget) -> Tried:
    """The hardest rung within the margin above ``gentlest`` that does well enough, or ``gentlest``."""
    doubtful = gentlest.effect.ua_base.value > budget.missed
    margin = budget.doubtful_margin if doubtful else budget.margin
    for rung in range(min(gentlest.rung + margin, len(ladder) - 1), gentlest.rung, -1):
        tried = measure(ladder[rung], rung)
        if tried.enough:
            return tried
    return gentlest


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
