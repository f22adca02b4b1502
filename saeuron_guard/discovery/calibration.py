"""Finds the operating point of a concept: which hookpoints, how many features, how hard.

The judge is one that the release check never uses.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from saeuron_guard.compiler.compile import compile_policy
from saeuron_guard.compiler.config import GuardConfig
from saeuron_guard.compiler.source import FeatureSource
from saeuron_guard.discovery.runs import library_versions
from saeuron_guard.discovery.search import Budget, Candidate, Ladder, Log, Tried, search
from saeuron_guard.discovery.workbench import Intervention, Workbench
from saeuron_guard.errors import CannotEvaluate, CompileError
from saeuron_guard.guard.guard import Guard
from saeuron_guard.names import BRANCHES, THRESHOLDS
from saeuron_guard.policy.model import Audit, ConceptRule, Place, Policy, Retain
from saeuron_guard.registry.records import (
    Calibration,
    ConceptRecord,
    FeatureScore,
    ModelRecord,
    OperatingPoint,
    Review,
    SaeRecord,
    ScoringRun,
    SharedFeature,
)
from saeuron_guard.sae.sparse_coder import SparseCoder


@dataclass(frozen=True, slots=True)
class Grid:
    """What calibration tries: SAEs that are edited together, features per timestep, multipliers from gentle to hard.

    Multipliers act on a feature's mean: where that is 15, -0.1 turns a latent into -1.5 times itself.
    """

    arrangements: tuple[tuple[str, ...], ...]
    features: tuple[int, ...] = (1, 4)
    multipliers: tuple[float, ...] = (-0.03, -0.05, -0.08, -0.12, -0.18, -0.27, -0.4)


@dataclass(frozen=True, slots=True)
class Setting:
    """The same number of features and multiplier at each hookpoint's SAE."""

    saes: tuple[str, ...]
    features: int
    multiplier: float


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

    def groups(self) -> Mapping[ConceptRecord, Sequence[ConceptRecord]]:
        """The groups of concepts with their members."""
        return self._registry.groups()

    def sae(self, name: str) -> SaeRecord:
        """One sparse autoencoder."""
        return self._registry.sae(name)

    def run(self, name: str) -> ScoringRun:
        """One scoring run."""
        return self._registry.run(name)

    def runs(self, concept: str | None = None) -> Sequence[ScoringRun]:
        """All scoring runs, or those that scored a concept."""
        return self._registry.runs(concept)

    def reviews(self, sae: str | None = None) -> Mapping[str, Review]:
        """The newest review of each feature."""
        return self._registry.reviews(sae)

    def calibration(self, model: str, concept: str) -> Calibration | None:  # noqa: ARG002 - FeatureSource's signature
        """The proposed calibration."""
        return self._calibration if concept == self._calibration.concept else None

    def scores(self, run: str, concept: str, *, max_rank: int | None = None) -> Sequence[FeatureScore]:
        """A concept's feature scores in a run."""
        return self._registry.scores(run, concept, max_rank=max_rank)

    def shared_features(self, run: str, places: Sequence[tuple[int, int]], *, max_rank: int) -> Sequence[SharedFeature]:
        """For each concept, those features that are among its best at one of ``places``."""
        return self._registry.shared_features(run, places, max_rank=max_rank)


class Calibrator:
    """Calibrates concepts one by one on a workbench.

    ``coders`` are the SAEs by name, ``runs`` the scoring run to select with, by SAE name.
    Guards edit the branches, and above the threshold, that a policy asks for which says nothing about them.
    """

    def __init__(
        self,
        bench: Workbench,
        registry: FeatureSource,
        coders: Mapping[str, SparseCoder],
        runs: Mapping[str, str],
        *,
        grid: Grid,
        budget: Budget,
        log: Log,
    ) -> None:
        self._bench = bench
        self._registry = registry
        self._coders = coders
        self._runs = runs
        self._grid = grid
        self._budget = budget
        self._log = log

    def calibrate(self, concept: ConceptRecord) -> Calibration:
        """The operating points of ``concept``, with the confirmed figures that justify them.

        Raises CannotEvaluate when no prompt asks for the concept or no setting selects a feature.
        """
        best = search(self._bench, concept, self._ladders(concept), self._budget, self._log)
        return Calibration(concept.name, self._points(best.candidate.setting), _figures(best), self._provenance())

    def configuration(self, concept: ConceptRecord, setting: Setting, threshold: str = THRESHOLDS[0]) -> GuardConfig:
        """The guard that a policy against ``concept`` alone would compile to if ``setting`` were its calibration."""
        return self._compiled(Calibration(concept.name, self._points(setting), {}, {}), threshold=threshold)

    def candidate_of(self, calibration: Calibration, branches: str = BRANCHES[0]) -> Candidate:
        """The guard that ``calibration`` describes, editing ``branches``."""
        config = self._compiled(calibration, branches)
        return Candidate(calibration.setting, self._intervention(config), calibration)

    def _ladders(self, concept: ConceptRecord) -> list[Ladder]:
        ladders: list[Ladder] = []
        for saes in self._grid.arrangements:
            for features in self._grid.features:
                settings = [Setting(saes, features, multiplier) for multiplier in self._grid.multipliers]
                try:
                    ladders.append([self._candidate(concept, setting) for setting in settings])
                except CompileError as error:
                    self._log(f"  {concept.name}: {'+'.join(saes)} n={features} is left out: {error}")
        if not ladders:
            raise CannotEvaluate(f"no setting selects a feature for {concept.name!r}; score the concept anew")
        return ladders

    def _candidate(self, concept: ConceptRecord, setting: Setting) -> Candidate:
        name = f"{'+'.join(setting.saes)} n={setting.features} x{setting.multiplier:g}"
        return Candidate(name, self._intervention(self.configuration(concept, setting)), setting)

    def _compiled(
        self, calibration: Calibration, branches: str = BRANCHES[0], threshold: str = THRESHOLDS[0]
    ) -> GuardConfig:
        policy = _policy_against(calibration.concept, self._bench.model.name, branches, threshold)
        return compile_policy(policy, Proposal(self._registry, calibration))

    def _intervention(self, config: GuardConfig) -> Intervention:
        coders = {point.hookpoint: self._coders[point.sae] for point in config.hookpoints}

        @contextmanager
        def attached(pipe: Any) -> Iterator[Guard]:
            guard = Guard(config, coders).attach(pipe)
            try:
                yield guard
            finally:
                guard.detach()

        return attached

    def _points(self, setting: Setting) -> tuple[OperatingPoint, ...]:
        return tuple(OperatingPoint(sae, self._runs[sae], setting.features, setting.multiplier) for sae in setting.saes)

    def _provenance(self) -> dict[str, object]:
        return {
            "judge": {"name": self._bench.judge.name, "digest": self._bench.judge.digest},
            "prompts_digest": self._bench.prompts_digest,
            "branches": BRANCHES[0],
            "threshold": THRESHOLDS[0],
            "seeds": list(self._budget.seeds),
            "features_tried": list(self._grid.features),
            "multipliers_tried": list(self._grid.multipliers),
            "arrangements_tried": ["+".join(saes) for saes in self._grid.arrangements],
            "budget": {name: value for name, value in asdict(self._budget).items() if name != "seeds"},
            "libraries": library_versions(),
            "when": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        }


def _figures(best: Tried) -> dict[str, float]:
    effect = best.effect
    return {
        "ua": effect.ua.value,
        "ua_base": effect.ua_base.value,
        "n_target": float(effect.ua.n),
        "ira": effect.ira.value,
        "ira_base": effect.ira_base.value,
        "cra": effect.cra.value,
        "cra_base": effect.cra_base.value,
        "n_retain": float(effect.ira.n),
        "survival": effect.survival.value,
        "survival_base": effect.survival_base.value,
    }


def _policy_against(concept: str, model: str, branches: str, threshold: str) -> Policy:
    place = Place("calibration", 0, 0)
    return Policy(
        name="calibration",
        version="0.0.0",
        owner="",
        model=model,
        branches=branches,
        threshold=threshold,
        concepts=(ConceptRule(concept, place, removal=1.0),),
        retain=Retain((), (), 0.0, place),
        audit=Audit("", (), 1, place),
        file="calibration",
        model_place=place,
    )
