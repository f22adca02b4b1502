"""What changes when one policy takes another's place: rules, requirements, edited features, collisions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Literal

from saeuron_guard.compiler.compile import compile_policy
from saeuron_guard.compiler.config import GuardConfig
from saeuron_guard.compiler.source import FeatureSource
from saeuron_guard.names import feature_name
from saeuron_guard.policy.model import ConceptRule, Policy

Effect = Literal["tightens", "loosens", ""]
"""Whether more is removed or demanded afterwards, or less; empty where that cannot be said of the change alone."""

Facts = Mapping[str, Mapping[str, str]]
"""For each thing, by name, its fields in words."""

_PRESENT: Final = "is"
"""The one field of things that are there or not."""


@dataclass(frozen=True, slots=True)
class Change:
    """One field of one thing before and after; None where the thing was not, or is no longer, there."""

    section: str
    name: str
    field: str
    before: str | None
    after: str | None
    effect: Effect


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two policies and what it compiles to."""

    policy: str
    version: str
    policy_digest: str
    guard_digest: str


@dataclass(frozen=True, slots=True)
class Plan:
    """All changes from ``old`` to ``new``, section by section; none between policies of equal meaning."""

    old: Side
    new: Side
    changes: tuple[Change, ...]


def plan_policies(old: Policy, new: Policy, registry: FeatureSource) -> Plan:
    """What putting ``new`` in the place of ``old`` changes; raises CompileError when one of them does not compile."""
    before, after = compile_policy(old, registry), compile_policy(new, registry)
    changes = [
        *_compared("target", _target(old), _target(new)),
        *_compared("concept", _concepts(old), _concepts(new)),
        *_compared("retain", _retained(old), _retained(new)),
        *_compared("audit", _audit(old), _audit(new)),
        *_compared("feature", _features(before), _features(after)),
        *_compared("collision", _collisions(before), _collisions(after)),
    ]
    return Plan(_side(before), _side(after), tuple(changes))


def _side(config: GuardConfig) -> Side:
    return Side(config.policy_name, config.policy_version, config.policy_digest, config.digest)


def _target(policy: Policy) -> Facts:
    fields = {"model": policy.model, "branches": policy.branches, "threshold": policy.threshold}
    return {"target": fields}


def _concepts(policy: Policy) -> Facts:
    return {rule.concept: _rule_fields(rule) for rule in policy.concepts}


def _rule_fields(rule: ConceptRule) -> dict[str, str]:
    fields = {"strength": f"{rule.strength:g}", "removal": f"{rule.removal:g}"}
    if rule.multiplier is not None:
        fields["multiplier"] = f"{rule.multiplier:g}"
    if rule.max_features is not None:
        fields["max_features"] = str(rule.max_features)
    return fields


def _retained(policy: Policy) -> Facts:
    named = {f"domain {name}": {_PRESENT: "retained"} for name in policy.retain.domains}
    named |= {f"concept {name}": {_PRESENT: "retained"} for name in policy.retain.concepts}
    return named | {"retain": {"max_loss": f"{policy.retain.max_loss:g}"}}


def _audit(policy: Policy) -> Facts:
    seeds = ", ".join(map(str, sorted(policy.audit.seeds)))
    return {"audit": {"prompts": policy.audit.prompts, "seeds": seeds, "minimum_n": str(policy.audit.minimum_n)}}


def _features(config: GuardConfig) -> Facts:
    """What each edited feature is edited for and how; the same feature may serve several concepts at other times."""
    return {
        f"{feature_name(point.sae, edit.index)} for {rule.concept}": {
            "push": f"{rule.strength:g} x ({rule.multiplier:g} mean z - z)",
            "timesteps": str(sum(edit.active)),
            "threshold": f"{max(edit.threshold):.4g}",
        }
        for point in config.hookpoints
        for rule in point.rules
        if rule.strength != 0
        for edit in rule.features
    }


def _collisions(config: GuardConfig) -> Facts:
    return {
        f"{each.feature} of {each.concept} with {each.retained}": {"score": f"{each.score:.4g}"}
        for each in config.collisions
    }


def _compared(section: str, old: Facts, new: Facts) -> Iterator[Change]:
    for name in sorted(old.keys() | new.keys()):
        before, after = old.get(name), new.get(name)
        if before is None or after is None:
            there = (before if after is None else after) or {}
            told = ", ".join(value if field == _PRESENT else f"{field} {value}" for field, value in there.items())
            idle = there.get("strength") == "0"
            effect: Effect = "" if idle else _effect_of_presence(section, added=before is None)
            yield Change(section, name, "", told if before else None, told if after else None, effect)
            continue
        for field in dict.fromkeys((*before, *after)):
            was, becomes = before.get(field), after.get(field)
            if was != becomes:
                yield Change(section, name, field, was, becomes, _effect_of(field, was, becomes))


def _effect_of_presence(section: str, *, added: bool) -> Effect:
    if section not in ("concept", "retain"):
        return ""
    return "tightens" if added else "loosens"


_TIGHTER: Final[Mapping[str, Callable[[float, float], bool]]] = {
    "strength": lambda old, new: new > old,
    "removal": lambda old, new: new > old,
    "minimum_n": lambda old, new: new > old,
    "max_features": lambda old, new: new > old,
    "multiplier": lambda old, new: new < old,
    "max_loss": lambda old, new: new < old,
}
"""Fields of which more, or less, is stricter."""


def _effect_of(field: str, before: str | None, after: str | None) -> Effect:
    """A field that only one side sets (an expert's override of the calibration) cannot be compared."""
    if field not in _TIGHTER or before is None or after is None:
        return ""
    return "tightens" if _TIGHTER[field](float(before), float(after)) else "loosens"
