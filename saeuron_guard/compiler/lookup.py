"""Finds what a policy's words stand for in the registry, and everything that it asks for and cannot have."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from saeuron_guard.compiler.points import RulePoint, rule_points, several_runs
from saeuron_guard.compiler.source import FeatureSource
from saeuron_guard.errors import Problem
from saeuron_guard.policy.model import Policy
from saeuron_guard.registry.records import ConceptRecord, ModelRecord
from saeuron_guard.wording import did_you_mean, quote

LIST_HINT = 'List them with "saeuron-guard registry list".'
MODELS_HINT = 'List them with "saeuron-guard registry list --models".'


@dataclass(frozen=True, slots=True)
class Lookup:
    """A policy with its names resolved. ``retained`` are sorted names; ``problems`` is empty when all is found."""

    model: ModelRecord | None
    points: tuple[RulePoint, ...]
    retained: tuple[str, ...]
    problems: tuple[Problem, ...]


def look_up(policy: Policy, registry: FeatureSource) -> Lookup:
    """Resolve the model, the concepts with their operating points, and what is retained."""
    models = {model.name: model for model in registry.models()}
    concepts = {concept.name: concept for concept in registry.concepts()}
    problems: list[Problem] = []
    model = models.get(policy.model)
    if model is None:
        problems.append(policy.model_place.problem(_unknown("model", policy.model, models)))
    elif policy.fingerprint not in ("", model.fingerprint):
        problems.append(policy.places.get("target.fingerprint", policy.model_place).problem(_other(model, policy)))
    points: list[RulePoint] = []
    for number, rule in enumerate(policy.concepts):
        if rule.concept not in concepts:
            problems.append(rule.place.problem(_no_concept(rule.concept, registry)))
        elif any(rule.concept == earlier.concept for earlier in policy.concepts[:number]):
            problems.append(rule.place.problem(f"concept {quote(rule.concept)} has two rules; keep one"))
        elif model is not None:
            found, faults = rule_points(rule, concepts[rule.concept], model, registry)
            points += found
            problems += faults
    problems += several_runs(points)
    if all(rule.concept in concepts for rule in policy.concepts):  # else a misspelt rule would be blamed on its test
        problems += _tests_of_nothing(policy)
    retained = _retained(policy, concepts, registry, problems)
    return Lookup(model, tuple(points), retained, tuple(problems))


def _other(model: ModelRecord, policy: Policy) -> str:
    return (
        f"the policy is for model {quote(policy.model)} with fingerprint {policy.fingerprint}, but the registry's was "
        f"made for {model.fingerprint}. Verify the policy against that model, then pin its fingerprint."
    )


def _tests_of_nothing(policy: Policy) -> Iterator[Problem]:
    """Tests about concepts that the guard does not look for: they could not trigger."""
    removed = [rule.concept for rule in policy.concepts]
    for test in policy.tests:
        if test.concept is not None and test.concept not in removed:
            hint = did_you_mean(test.concept, removed)
            message = f"the test is about concept {quote(test.concept)}, which the policy does not remove.{hint} "
            yield test.place.problem(message + "Add a rule for it, or change the test.")


def _retained(
    policy: Policy, concepts: dict[str, ConceptRecord], registry: FeatureSource, problems: list[Problem]
) -> tuple[str, ...]:
    retain, removed = policy.retain, {rule.concept: rule.place for rule in policy.concepts}
    domains = {concept.domain for concept in concepts.values()}
    mistakes = {f"domains.{name}": _unknown("domain", name, domains) for name in retain.domains if name not in domains}
    mistakes |= {f"concepts.{name}": _no_concept(name, registry) for name in retain.concepts if name not in concepts}
    mistakes |= {
        f"concepts.{name}": f"concept {quote(name)} is retained here but removed, too; drop one of the two"
        for name in retain.concepts
        if name in removed
    }
    for name, mistake in mistakes.items():
        problems.append(policy.places.get(f"retain.{name}", retain.place).problem(mistake))
    wanted = {concept.name for concept in concepts.values() if concept.domain in retain.domains}
    return tuple(sorted((wanted | set(retain.concepts)) - set(removed)))


def _no_concept(name: str, registry: FeatureSource) -> str:
    """Why a rule's concept is none: another word for one, a group of them, or unknown."""
    for group, members in registry.groups().items():
        if name == group.name:
            names = ", ".join(member.name for member in members)
            return f"{quote(name)} is a group of concepts; name each that is meant: {names}"
    concepts = registry.concepts()
    for concept in concepts:
        if name.casefold() in {alias.casefold() for alias in concept.aliases}:
            return f"unknown concept {quote(name)}: the registry calls it {quote(concept.name)}; write that"
    return _unknown("concept", name, [concept.name for concept in concepts])


def _unknown(kind: str, name: str, known: Iterable[str]) -> str:
    hint = MODELS_HINT if kind == "model" else LIST_HINT
    return f"unknown {kind} {quote(name)}.{did_you_mean(name, known)} {hint}"
