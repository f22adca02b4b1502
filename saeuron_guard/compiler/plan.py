"""What changes when one policy takes another's place: rules, requirements, edited features, collisions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from saeuron_guard.compiler.compile import compile_policy, compile_with_points
from saeuron_guard.compiler.config import GuardConfig
from saeuron_guard.compiler.source import FeatureSource
from saeuron_guard.names import feature_name
from saeuron_guard.policy.model import Policy, Waiver
from saeuron_guard.policy.settings import (
    RULE,
    Key,
    Settings,
    key_text,
    setting_of,
    settings_of,
    value_text,
)
from saeuron_guard.policy.waivers import waiver_text

Effect = Literal["tightens", "loosens", ""]
"""Whether more is removed or demanded afterwards, or less; empty where that cannot be said of the change alone."""

Facts = Mapping[str, Mapping[str, str]]
"""For each thing, by name, its fields in words."""


@dataclass(frozen=True, slots=True)
class Change:
    """One field of one thing before and after; None where the thing was not, or is no longer, there.

    ``waiver``: the waiver of the new policy that allows it to be looser than what that extends, in words, or "".
    """

    section: str
    name: str
    field: str
    before: str | None
    after: str | None
    effect: Effect
    waiver: str = ""


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two policies and what it compiles to."""

    policy: str
    version: str
    policy_digest: str
    guard_digest: str
    waivers: tuple[Waiver, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """All changes from ``old`` to ``new``, section by section; none between policies of equal meaning."""

    old: Side
    new: Side
    changes: tuple[Change, ...]


def plan_policies(old: Policy, new: Policy, registry: FeatureSource) -> Plan:
    """What putting ``new`` in the place of ``old`` changes; raises CompileError when one of them does not compile.

    ``old`` may use features that were rejected or quarantined since.
    """
    # A policy whose features were rejected is just the one that has to be replaced, so OLD need not make a guard.
    before = compile_with_points(old, registry, refuse_reviewed=False).config
    after = compile_policy(new, registry)
    changes = [
        *_compared("metadata", _metadata(old), _metadata(new)),
        *_setting_changes(old, new),
        *_compared("test", _tests(old), _tests(new)),
        *_compared("waiver", _waivers(before), _waivers(after)),
        *_compared("feature", _features(before), _features(after)),
        *_compared("collision", _collisions(before), _collisions(after)),
    ]
    return Plan(_side(old, before), _side(new, after), tuple(changes))


def _side(policy: Policy, config: GuardConfig) -> Side:
    return Side(policy.name, policy.version, policy.digest, config.digest, policy.waivers)


def _metadata(policy: Policy) -> Facts:
    return {"policy": {"status": policy.status}}


def _setting_changes(old: Policy, new: Policy) -> Iterator[Change]:
    """Every setting that differs; a concept that comes or goes is one change, with what is said about it."""
    before, after = settings_of(old), settings_of(new)
    waived = {setting: waiver for waiver in new.waivers for setting in waiver.covers}
    for key in sorted(before.keys() | after.keys()):
        part_of_concept = key[0] == "concepts" and len(key) > 2
        if before.get(key) == after.get(key) or (part_of_concept and not (key in before and key in after)):
            continue
        waiver = waived.get(key_text(key))
        yield Change(
            *_named(key),
            _told(key, before),
            _told(key, after),
            _effect(key, before, after),
            waiver_text(waiver) if waiver else "",
        )


def _named(key: Key) -> tuple[str, str, str]:
    """A setting as section, name and field: a concept's, a retained thing's, or the policy's own."""
    if key[0] == "concepts":
        return "concept", key[1], key[-1] if len(key) > 2 else ""
    if len(key) == 3:
        return "retain", f"{key[1].removesuffix('s')} {key[2]}", ""
    return key[0], key[0], key[1]


def _told(key: Key, settings: Settings) -> str | None:
    """A setting in words; of a concept, what its rule says beyond defaults; None for what is absent or unset."""
    value = settings.get(key)
    if value in (None, "", ()):
        return None
    if value is not True:
        return value_text(key, value)
    return _rule_text(key, settings) if key[0] == "concepts" else "retained"


def _rule_text(key: Key, settings: Settings) -> str:
    told = {inner: settings[(*key, *inner)] for inner in RULE}
    return ", ".join(
        f"{inner[-1]} {value_text((*key, *inner), value)}"
        for inner, value in told.items()
        if value != RULE[inner].default or inner in (("strength",), ("require", "removal"))
    )


def _effect(key: Key, before: Settings, after: Settings) -> Effect:
    """Which way a change goes by the setting's own order; a rule that only watches goes neither way."""
    there = before if key in before else after
    if there[key] is True and key[0] == "concepts" and not _edits(key, there):
        return ""
    setting = setting_of(key)
    was, becomes = before.get(key, setting.default), after.get(key, setting.default)
    stricter, looser = setting.at_least(was, becomes), setting.at_least(becomes, was)
    if stricter == looser:
        return ""
    return "tightens" if stricter else "loosens"


def _edits(key: Key, settings: Settings) -> bool:
    action, mode, strength = (settings[(*key, name)] for name in ("action", "mode", "strength"))
    return bool(action != "detect" and mode == "enforce" and strength != 0)


def _tests(policy: Policy) -> Facts:
    return {
        f"{test.prompt!r} (seed {test.seed}){f' for {test.concept}' if test.concept else ''}": {
            "expect": test.expect,
            **({"todo": test.todo} if test.todo else {}),
        }
        for test in policy.tests
    }


def _waivers(config: GuardConfig) -> Facts:
    """The waivers that loosen something, with what they cover."""
    return {
        f"{waiver.what} ({waiver.ticket})": {"covers": ", ".join(waiver.covers), "expires": waiver.expires}
        for waiver in config.waivers
    }


def _features(config: GuardConfig) -> Facts:
    """What each edited feature is edited for and how; the same feature may serve several concepts at other times."""
    return {
        f"{feature_name(point.sae, edit.index)} for {rule.concept}": {
            "push": f"{rule.applied:g} x ({rule.multiplier:g} mean z - z)",
            "timesteps": str(sum(edit.active)),
            "threshold": f"{max(edit.threshold):.4g}",
        }
        for point in config.hookpoints
        for rule in point.rules
        if rule.applied
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
            told = ", ".join(
                f"{field} {value}" for field, value in ((before if after is None else after) or {}).items()
            )
            yield Change(section, name, "", told if before else None, told if after else None, "")
            continue
        for field in dict.fromkeys((*before, *after)):
            was, becomes = before.get(field), after.get(field)
            if was != becomes:
                yield Change(section, name, field, was, becomes, "")
