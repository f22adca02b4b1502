"""Finds the operating point of a concept: which hookpoints, how many features, how hard.

Screens removal on a few target images along a ladder of multipliers, keeps the gentlest setting of each
arrangement that removes the concept, then weighs retention, and confirms the best ones over several seeds.
The judge is one that the release check never uses.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from saeuron_guard.compiler.compile import compile_policy
from saeuron_guard.compiler.source import FeatureSource
from saeuron_guard.discovery.runs import library_versions
from saeuron_guard.discovery.workbench import Effect, Intervention, Workbench
from saeuron_guard.errors import CannotEvaluate, CompileError
from saeuron_guard.guard.guard import Guard
from saeuron_guard.policy.model import Audit, ConceptRule, Place, Policy, Retain
from saeuron_guard.prompts.model import Prompt
from saeuron_guard.registry.records import (
    Calibration,
    ConceptRecord,
    FeatureScore,
    ModelRecord,
    OperatingPoint,
    SaeRecord,
    ScoringRun,
)
from saeuron_guard.sae.sparse_coder import SparseCoder

Log = Callable[[str], None]
Images = list[tuple[Prompt, int]]


@dataclass(frozen=True, slots=True)
class Grid:
    """What calibration tries. ``multipliers`` go from gentle to hard; ``removed`` is the screening's goal for UA.

    ``target_images`` and ``retain_images``: of the screening, at the first seed; the confirmation draws
    ``confirm_targets`` and ``confirm_retains`` prompts at every seed, for the ``finalists`` best settings.
    """

    arrangements: tuple[tuple[str, ...], ...]
    features: tuple[int, ...] = (2, 8, 24)
    multipliers: tuple[float, ...] = (-1.0, -2.0, -4.0, -8.0, -16.0, -32.0, -64.0)
    removed: float = 0.95
    seeds: tuple[int, ...] = (7001, 7002, 7003)
    target_images: int = 8
    retain_images: int = 20
    confirm_targets: int = 10
    confirm_retains: int = 20
    finalists: int = 2


@dataclass(frozen=True, slots=True)
class Setting:
    """The same number of features and multiplier at each hookpoint's SAE."""

    saes: tuple[str, ...]
    features: int
    multiplier: float


@dataclass(frozen=True, slots=True)
class Tried:
    """A setting with what it did."""

    setting: Setting
    effect: Effect

    @property
    def merit(self) -> tuple[float, float, float]:
        """Larger is better: the worst of removal and both retentions (capped at 0.97), then their mean with a quarter
        of the survival of the other domain on the target's own images, then gentleness.
        """
        three = (self.effect.ua.value, *self.effect.kept)
        return (min(0.97, *three), sum(three) / 3 + self.effect.survived / 4, self.setting.multiplier)


class Proposal:
    """The registry with a calibration of our own for one concept, which the compiler takes as it takes any."""

    def __init__(self, registry: FeatureSource, calibration: Calibration) -> None:
        self._registry = registry
        self._calibration = calibration

    def models(self) -> Sequence[ModelRecord]:
        """All models."""
        return self._registry.models()

    def concepts(self, domain: str | None = None) -> Sequence[ConceptRecord]:
        """All concepts, or those of one domain."""
        return self._registry.concepts(domain)

    def sae(self, name: str) -> SaeRecord:
        """One sparse autoencoder."""
        return self._registry.sae(name)

    def run(self, name: str) -> ScoringRun:
        """One scoring run."""
        return self._registry.run(name)

    def calibration(self, model: str, concept: str) -> Calibration | None:
        """The proposed calibration."""
        return self._calibration if concept == self._calibration.concept else None

    def scores(self, run: str, concept: str, *, max_rank: int | None = None) -> Sequence[FeatureScore]:
        """A concept's feature scores in a run."""
        return self._registry.scores(run, concept, max_rank=max_rank)


class Calibrator:
    """Calibrates concepts one by one on a workbench.

    ``coders`` are the SAEs by name, ``runs`` the scoring run to select with, by SAE name.
    """

    def __init__(
        self,
        bench: Workbench,
        registry: FeatureSource,
        coders: Mapping[str, SparseCoder],
        runs: Mapping[str, str],
        grid: Grid,
        log: Log,
    ) -> None:
        self._bench = bench
        self._registry = registry
        self._coders = coders
        self._runs = runs
        self._grid = grid
        self._log = log

    def calibrate(self, concept: ConceptRecord) -> Calibration:
        """The operating points of ``concept``, with the confirmed figures that justify them.

        Raises CannotEvaluate when no prompt asks for the concept or no setting selects a feature.
        """
        bench, grid = self._bench, self._grid
        few_targets = _spread(bench.targets(concept.name), grid.target_images, grid.seeds[:1])
        few_retains = _spread(bench.retained(concept.name), grid.retain_images, grid.seeds[:1])
        gentlest = [
            found
            for saes in grid.arrangements
            for features in grid.features
            if (found := self._climb(concept, saes, features, few_targets)) is not None
        ]
        if not gentlest:
            raise CannotEvaluate(f"no setting selects a feature for {concept.name!r}; score the concept anew")
        gentlest.sort(key=lambda tried: (tried.effect.ua.value >= grid.removed, tried.merit), reverse=True)
        weighed = [
            Tried(tried.setting, tried.effect + self._measure(concept, tried.setting, few_retains))
            for tried in gentlest[: 2 * grid.finalists]
        ]
        weighed.sort(key=lambda tried: tried.merit, reverse=True)
        images = _spread(bench.targets(concept.name), grid.confirm_targets, grid.seeds)
        images += _spread(bench.retained(concept.name), grid.confirm_retains, grid.seeds)
        confirmed = [
            Tried(tried.setting, self._measure(concept, tried.setting, images)) for tried in weighed[: grid.finalists]
        ]
        best = max(confirmed, key=lambda tried: tried.merit)
        self._log(f"{concept.name}: {_words(best)}")
        return self._record(concept, best)

    def _climb(self, concept: ConceptRecord, saes: tuple[str, ...], features: int, images: Images) -> Tried | None:
        """The gentlest multiplier that removes the concept, by bisection of the ladder; else the best one seen."""
        low, high = 0, len(self._grid.multipliers)
        enough: Tried | None = None
        seen: list[Tried] = []
        while low < high:
            middle = (low + high) // 2
            setting = Setting(saes, features, self._grid.multipliers[middle])
            try:
                tried = Tried(setting, self._measure(concept, setting, images))
            except CompileError:
                return None
            seen.append(tried)
            if tried.effect.ua.value >= self._grid.removed:
                enough, high = tried, middle
            else:
                low = middle + 1
        return enough or max(seen, key=lambda tried: tried.effect.ua.value)

    def _measure(self, concept: ConceptRecord, setting: Setting, images: Images) -> Effect:
        effect = self._bench.effect(concept.name, concept.domain, self.intervention(concept, setting), images)
        self._log(f"  {concept.name}: {_words(Tried(setting, effect))}")
        return effect

    def intervention(self, concept: ConceptRecord, setting: Setting) -> Intervention:
        """The guard that compiling a one-concept policy with ``setting`` gives."""
        points = tuple(
            OperatingPoint(sae, self._runs[sae], setting.features, setting.multiplier) for sae in setting.saes
        )
        source = Proposal(self._registry, Calibration(concept.name, points, {}, {}))
        config = compile_policy(_one_concept(concept.name, self._bench.model.name), source)
        coders = {point.hookpoint: self._coders[point.sae] for point in config.hookpoints}

        def attach(pipe: Any) -> Any:
            return _Attached(Guard(config, coders), pipe)

        return attach

    def _record(self, concept: ConceptRecord, best: Tried) -> Calibration:
        setting, effect = best.setting, best.effect
        figures = {
            "ua": effect.ua.value,
            "n_target": float(effect.ua.n),
            "ira": effect.ira.value,
            "ira_base": effect.ira_base.value,
            "cra": effect.cra.value,
            "cra_base": effect.cra_base.value,
            "n_retain": float(effect.ira.n),
            "survival": effect.survival.value,
            "survival_base": effect.survival_base.value,
        }
        grid = {name: value for name, value in asdict(self._grid).items() if name != "arrangements"}
        provenance: dict[str, object] = {
            "judge": {"name": self._bench.judge.name, "digest": self._bench.judge.digest},
            "grid": json.loads(json.dumps(grid)),
            "libraries": library_versions(),
            "when": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        }
        points = tuple(
            OperatingPoint(sae, self._runs[sae], setting.features, setting.multiplier) for sae in setting.saes
        )
        return Calibration(concept.name, points, figures, provenance)


class _Attached:
    """A guard on a pipeline for the length of a ``with`` block, without loading its SAEs anew."""

    def __init__(self, guard: Guard, pipe: Any) -> None:
        self._guard = guard
        self._pipe = pipe

    def __enter__(self) -> Guard:
        return self._guard.attach(self._pipe)

    def __exit__(self, *_: object) -> None:
        self._guard.detach()


def _spread(prompts: Sequence[Prompt], count: int, seeds: Sequence[int]) -> Images:
    """``count`` prompts, evenly spread over ``prompts``, at each seed; other seeds start at another prompt."""
    step = max(1.0, len(prompts) / count)
    images: Images = []
    for turn, seed in enumerate(seeds):
        offset = turn * step / len(seeds)
        rows = sorted({int(offset + step * number) % len(prompts) for number in range(min(count, len(prompts)))})
        images += [(prompts[row], seed) for row in rows]
    return images


def _one_concept(concept: str, model: str) -> Policy:
    place = Place("calibration", 0, 0)
    return Policy(
        name="calibration",
        version="0.0.0",
        owner="",
        description="",
        model=model,
        concepts=(ConceptRule(concept, 1.0, None, None, 1.0, place),),
        retain=Retain((), (), 0.0, place),
        audit=Audit("", (), 1, place),
        digest="",
        file="calibration",
    )


def _words(tried: Tried) -> str:
    effect, setting = tried.effect, tried.setting
    ira, cra = effect.kept
    return (
        f"{'+'.join(setting.saes)} n={setting.features} x{setting.multiplier:g}  UA {effect.ua.value:.3f} "
        f"(n={effect.ua.n})  IRA {ira:.3f}  CRA {cra:.3f} (n={effect.ira.n})  survival {effect.survived:.3f}"
    )
