"""Removal and retention of the guard and its rivals, concept by concept, on the same audit images.

The guard comes with the registry's calibration. Each rival's setting is searched here with the calibration prompts and
judge, as a calibration is; the audit judge and the audit seeds see no setting before it is fixed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from statistics import fmean

from saeuron_guard.benchmark.rivals import Directions, mean_difference, published
from saeuron_guard.discovery.calibration import Calibrator, Setting
from saeuron_guard.discovery.concept_statistics import ConceptStatistics
from saeuron_guard.discovery.search import Budget, Candidate, Ladder, search, spread
from saeuron_guard.discovery.workbench import Effect, Intervention, Workbench
from saeuron_guard.errors import CannotEvaluate, CompileError
from saeuron_guard.names import GUARD_METHODS
from saeuron_guard.registry.records import Calibration, ConceptRecord
from saeuron_guard.sae.sparse_coder import SparseCoder

Log = Callable[[str], None]

PAPER_MULTIPLIERS = (-1.0, -5.0, -10.0, -15.0, -20.0, -25.0, -30.0)
"""SAeUron's grid of gamma (arXiv 2501.18052, appendix)."""
PAPER_PERCENTILES = (99.0, 99.5, 99.9)
STEERING_FACTORS = (1.0, 2.0, 4.0, 8.0, 16.0)
RIVAL_BUDGET = Budget(seeds=(7001,), targets=8, retains=16, steps=1, margin=0)
"""The audit confirms what the search found, so a rival's search does with one seed."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one method did to one concept on the audit images; ``setting`` in words.

    ``became``: what the judge calls the concept's own images, most often first; empty in files of older releases.
    """

    concept: str
    domain: str
    method: str
    setting: str
    effect: Effect
    became: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Contest:
    """Everything that the methods share.

    ``settings``: workbench with the calibration prompts and judge; ``audit``: with the audit prompts and judge.
    ``statistics``: means of the raw activations, by hookpoint.  ``home``: the SAE that rivals use, by domain.
    """

    settings: Workbench
    audit: Workbench
    calibrator: Calibrator
    coders: Mapping[str, SparseCoder]
    hookpoints: Mapping[str, str]
    home: Mapping[str, str]
    statistics: Mapping[str, ConceptStatistics]
    seeds: tuple[int, ...]
    targets: int = 24
    retains: int = 24
    budget: Budget = RIVAL_BUDGET

    def outcomes(
        self, concept: ConceptRecord, calibration: Calibration | None, methods: Sequence[str], log: Log
    ) -> Iterable[Outcome]:
        """One outcome a method; raises CannotEvaluate for the guard when the concept has no calibration."""
        share = max(1, self.targets // len(self.seeds))
        images = spread(self.audit.targets(concept.name), share, self.seeds)
        images += spread(self.audit.retained(concept.name), max(1, self.retains // len(self.seeds)), self.seeds)
        for method in methods:
            candidate = self._candidate(concept, calibration, method, log)
            guarded = self.audit.judged(candidate.intervention, images)
            effect = self.audit.compared(concept.name, concept.domain, guarded, images)
            became = Counter(
                labels[concept.domain]
                for (prompt, _), labels in zip(images, guarded, strict=True)
                if prompt.shows(concept.name)
            )
            outcome = Outcome(concept.name, concept.domain, method, candidate.name, effect, dict(became.most_common()))
            log(describe(outcome))
            yield outcome

    def _candidate(self, concept: ConceptRecord, calibration: Calibration | None, method: str, log: Log) -> Candidate:
        if method in GUARD_METHODS:
            if calibration is None:
                raise CannotEvaluate(f"{concept.name} has no calibration; run sae calibrate first")
            return self.calibrator.candidate_of(calibration, "conditional" if method == "guard" else "all")
        ladders = {"published": self._published, "mean-difference": self._steering}[method](concept, log)
        return search(self.settings, concept, ladders, self.budget, log).candidate

    def _published(self, concept: ConceptRecord, log: Log) -> list[Ladder]:
        sae = self.home[concept.domain]
        latents = self.coders[sae].config.num_latents
        ladders: list[Ladder] = []
        for percentile in PAPER_PERCENTILES:
            features = max(1, round(latents * (100 - percentile) / 100))
            ladder = []
            try:
                for multiplier in PAPER_MULTIPLIERS:
                    config = self.calibrator.configuration(concept, Setting((sae,), features, multiplier), "mean")
                    coders = {self.hookpoints[sae]: self.coders[sae]}
                    act: Intervention = partial(published, config=config, coders=coders)
                    ladder.append(Candidate(f"{sae} p{percentile:g} x{multiplier:g}", act, None))
            except CompileError as error:
                log(f"  {concept.name}: percentile {percentile:g} is left out: {error}")
                continue
            ladders.append(ladder)
        if not ladders:
            raise CannotEvaluate(f"{concept.name}: the scoring run keeps too few features for the paper's percentiles")
        return ladders

    def _steering(self, concept: ConceptRecord, _log: Log) -> list[Ladder]:
        hookpoint = self.hookpoints[self.home[concept.domain]]
        own, both = (hookpoint,), tuple(self.statistics)
        ladders: list[Ladder] = []
        for chosen, branches in ((own, "conditional"), (own, "all"), (both, "conditional"), (both, "all")):
            directions = {name: Directions(self.statistics[name], concept.name) for name in chosen}
            ladder = []
            for factor in STEERING_FACTORS:
                act: Intervention = partial(mean_difference, directions=directions, factor=factor, branches=branches)
                ladder.append(Candidate(f"{'+'.join(chosen)} {branches} x{factor:g}", act, None))
            ladders.append(ladder)
        return ladders


@dataclass(frozen=True, slots=True)
class Summary:
    """Means over the concepts of a domain for one method, and the worst single UA, IRA or CRA among them."""

    domain: str
    method: str
    concepts: int
    ua: float
    ira: float
    cra: float
    survival: float
    worst: float
    worst_concept: str


def summarise(outcomes: Sequence[Outcome]) -> list[Summary]:
    """One summary for each domain and method, in the order in which they first come; retention relative to base."""
    groups: dict[tuple[str, str], list[Outcome]] = {}
    for outcome in outcomes:
        groups.setdefault((outcome.domain, outcome.method), []).append(outcome)
    found = []
    for (domain, method), group in groups.items():
        worst = min(group, key=_worst)
        found.append(
            Summary(
                domain=domain,
                method=method,
                concepts=len(group),
                ua=fmean(each.effect.ua.value for each in group),
                ira=fmean(each.effect.kept[0] for each in group),
                cra=fmean(each.effect.kept[1] for each in group),
                survival=fmean(each.effect.survived for each in group),
                worst=_worst(worst),
                worst_concept=worst.concept,
            )
        )
    return found


def describe(outcome: Outcome) -> str:
    """One line for people."""
    effect = outcome.effect
    ira, cra = effect.kept
    return (
        f"{outcome.concept:<11}{outcome.method:<16} UA {effect.ua.value:6.1%} (n={effect.ua.n})  "
        f"IRA {ira:6.1%}  CRA {cra:6.1%} (n={effect.ira.n})  survival {effect.survived:6.1%}  {outcome.setting}"
    )


def _worst(outcome: Outcome) -> float:
    return min(outcome.effect.ua.value, *outcome.effect.kept)
