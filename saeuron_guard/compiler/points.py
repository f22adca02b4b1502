"""Where and how a rule acts: the calibrated operating points, with what the policy puts in their place."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from saeuron_guard.compiler.source import FeatureSource
from saeuron_guard.errors import Problem, RegistryError
from saeuron_guard.names import ACTIONS, FEATURE
from saeuron_guard.policy.model import ConceptRule
from saeuron_guard.registry.records import Calibration, ConceptRecord, ModelRecord, SaeRecord, ScoringRun
from saeuron_guard.wording import did_you_mean, one_of, quote


@dataclass(frozen=True, slots=True)
class RulePoint:
    """What one rule does at one hookpoint: the ``features`` best features of a timestep times ``multiplier``.

    ``indices``: exactly these features instead, those that the policy names; None for the best ones.
    """

    rule: ConceptRule
    concept: ConceptRecord
    calibration: Calibration
    sae: SaeRecord
    run: ScoringRun
    features: int
    multiplier: float
    indices: frozenset[int] | None = None

    @property
    def push(self) -> float:
        """How hard the rule pushes: |strength * multiplier|."""
        return abs(self.rule.strength * self.multiplier)


class CannotPlaceError(Exception):
    """A rule asks for what the registry cannot give; the message is for the policy's author."""


def rule_points(
    rule: ConceptRule, concept: ConceptRecord, model: ModelRecord, registry: FeatureSource
) -> tuple[list[RulePoint], list[Problem]]:
    """The points of one rule, one for each hookpoint, or why it has none."""
    try:
        return list(_points(rule, concept, model, _calibration(rule, concept, model, registry), registry)), []
    except CannotPlaceError as error:
        return [], [rule.place.problem(str(error))]


def _calibration(rule: ConceptRule, concept: ConceptRecord, model: ModelRecord, registry: FeatureSource) -> Calibration:
    if rule.action not in ACTIONS:
        raise CannotPlaceError(f"action {quote(rule.action)} is not carried out by this release; use {one_of(ACTIONS)}")
    calibration = registry.calibration(model.name, concept.name)
    if calibration is None or not calibration.points:
        raise CannotPlaceError(
            f"concept {quote(concept.name)} has no calibration for model {quote(model.name)}, so no strength is known "
            f'for it. Remove the rule, or calibrate the concept; see "saeuron-guard registry show {concept.name}".'
        )
    return calibration


def _points(
    rule: ConceptRule, concept: ConceptRecord, model: ModelRecord, calibration: Calibration, registry: FeatureSource
) -> Iterator[RulePoint]:
    chosen = _chosen_features(rule.selection.features, model, registry)
    calibrated = {point.sae: point for point in calibration.points}
    for name in chosen or calibrated:
        point, sae = calibrated.get(name), registry.sae(name)
        run = _run(rule, sae, concept, point.run if point else None, registry)
        known = point if point and point.run == run.name else None
        count = len(chosen[name]) if chosen else rule.selection.max_features
        if known is None and (count is None or rule.multiplier is None):
            raise CannotPlaceError(
                f"concept {quote(rule.concept)} was not calibrated with run {quote(run.name)} (method {run.method}), "
                f"so the rule has to give selection.max_features and multiplier itself, or leave the selection to "
                f"calibration"
            )
        yield RulePoint(
            rule=rule,
            concept=concept,
            calibration=calibration,
            sae=sae,
            run=run,
            features=known.features if count is None and known else count or 0,
            multiplier=known.multiplier if rule.multiplier is None and known else rule.multiplier or 0.0,
            indices=chosen.get(name),
        )


def _chosen_features(names: Iterable[str], model: ModelRecord, registry: FeatureSource) -> dict[str, frozenset[int]]:
    """Features that a policy names, by SAE; each must exist in an SAE of the policy's model."""
    chosen: dict[str, frozenset[int]] = {}
    for name in names:
        match = FEATURE.fullmatch(name)
        if match is None:
            raise CannotPlaceError(f"{quote(name)} is not a feature's name; write SAE:INDEX, such as my-sae:17")
        try:
            sae = registry.sae(match["sae"])
        except RegistryError as error:
            raise CannotPlaceError(str(error)) from None
        index = int(match["index"])
        if sae.model != model.name:
            raise CannotPlaceError(f"{quote(name)} is a feature for model {quote(sae.model)}, not {quote(model.name)}")
        if index >= sae.num_latents:
            raise CannotPlaceError(f"{sae.name} has features 0 to {sae.num_latents - 1}, got {index}")
        chosen[sae.name] = chosen.get(sae.name, frozenset()) | {index}
    return chosen


def _run(
    rule: ConceptRule, sae: SaeRecord, concept: ConceptRecord, calibrated: str | None, registry: FeatureSource
) -> ScoringRun:
    """The calibrated run, or the one of the SAE that has the method that the policy asks for."""
    method = rule.selection.method
    if calibrated is not None:
        run = registry.run(calibrated)
        if method in (None, run.method):
            return run
    scored = [run for run in registry.runs(concept.name) if run.sae == sae.name]
    fitting = [run for run in scored if method in (None, run.method)]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise CannotPlaceError(
            f"several runs scored {quote(concept.name)} with {sae.name}: {', '.join(run.name for run in fitting)}; "
            f"say in selection.method which method is meant"
        )
    if not scored:
        raise CannotPlaceError(
            f"no scoring run of {sae.name} scored {quote(concept.name)}; name features of another SAE"
        )
    methods = sorted({run.method for run in scored})
    raise CannotPlaceError(
        f"no run scored {quote(concept.name)} with {sae.name} by method {quote(method or '')}."
        f"{did_you_mean(method or '', methods)} There is {one_of(methods)}."
    )


def several_runs(points: Sequence[RulePoint]) -> Iterator[Problem]:
    """One hookpoint has one table of timesteps, so all its rules need the same SAE and scoring run."""
    first: dict[str, RulePoint] = {}
    for point in points:
        other = first.setdefault(point.sae.hookpoint, point)
        if (other.sae.name, other.run.name) != (point.sae.name, point.run.name):
            yield point.rule.place.problem(
                f"concept {quote(point.concept.name)} is calibrated at {point.sae.hookpoint} with run "
                f"{quote(point.run.name)}, but {quote(other.concept.name)} with run {quote(other.run.name)}; a guard "
                f"takes one run for each hookpoint. Calibrate both with the same run, or put them in two policies.",
            )
