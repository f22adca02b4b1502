"""Every setting of a policy by its name, with its default and what counts as stricter.

Extending a policy, comparing two and pinning one by digest all read this table, so they cannot disagree about what a
policy says or which way a change goes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from saeuron_guard.names import ACTIONS, BRANCHES, CONFIDENCE, MODES, PRESENT_SHARE, SEVERITIES, THRESHOLDS
from saeuron_guard.policy.model import Audit, ConceptRule, Place, Policy, Retain, Selection, Tested, Window

Key = tuple[str, ...]
"""A setting's name, such as ("concepts", "pistol", "strength"); of a thing that is there or not, its own name."""

Value = Any
"""None, bool, int, float, str, Window, or a tuple of such."""

Settings = Mapping[Key, Value]

AtLeast = Callable[[Value, Value], bool]
"""Whether the second value is at least as strict as the first."""


@dataclass(frozen=True, slots=True)
class Setting:
    """``default``: what holds when nobody says anything.  ``at_least``: the order from loose to strict.

    ``unset``: what it means, in words, to have no value.
    Where neither of two values is at least as strict as the other, they cannot be compared.
    """

    default: Value
    at_least: AtLeast
    unset: str = "unset"


def _same(old: Value, new: Value) -> bool:
    return bool(old == new)


def _free(_old: Value, _new: Value) -> bool:
    return True


def _higher(old: Value, new: Value) -> bool:
    return bool(old == new) or (None not in (old, new) and new > old)


def _lower(old: Value, new: Value) -> bool:
    return bool(old == new) or (None not in (old, new) and new < old)


def _pinned(old: Value, new: Value) -> bool:
    return old in ("", new)


def _more(old: Value, new: Value) -> bool:
    """More features, unless one side leaves the choice to calibration."""
    return bool(old) == bool(new) and set(old) <= set(new)


def _wider(old: Window | None, new: Window | None) -> bool:
    return new is None or (old is not None and new.first >= old.first and new.last <= old.last)


def _ranked(ranking: tuple[str, ...]) -> AtLeast:
    return lambda old, new: ranking.index(new) >= ranking.index(old)


def _acts(old: str, new: str) -> bool:
    """Any editing action is stricter than detecting; which of two edits is stricter, nobody can say."""
    return old in (new, "detect")


_CALIBRATED: Final = "as calibrated"

_PRESENT: Final = Setting(default=False, at_least=lambda old, new: bool(new or not old))

RULE: Final[Mapping[Key, Setting]] = {
    ("action",): Setting(ACTIONS[0], _acts),
    ("mode",): Setting(MODES[-1], _ranked(MODES)),
    ("strength",): Setting(1.0, _higher),
    ("multiplier",): Setting(None, _lower, _CALIBRATED),
    ("selection", "method"): Setting(None, _same, _CALIBRATED),
    ("selection", "max_features"): Setting(None, _higher, _CALIBRATED),
    ("selection", "min_score"): Setting(None, _lower, "any score"),
    ("selection", "features"): Setting((), _more, "the best ones"),
    ("timesteps",): Setting(None, _wider, "all timesteps"),
    ("severity",): Setting(SEVERITIES[1], _ranked(SEVERITIES)),
    ("share",): Setting(PRESENT_SHARE, _lower),
    ("require", "removal"): Setting(0.85, _higher),
    ("require", "confidence"): Setting(CONFIDENCE, _higher),
}
"""Of one concept's rule, without its name in front."""

WHOLE: Final[Mapping[Key, Setting]] = {
    ("target", "model"): Setting("", _same),
    ("target", "fingerprint"): Setting("", _pinned),
    ("target", "branches"): Setting(BRANCHES[0], _ranked(BRANCHES)),
    ("target", "threshold"): Setting(THRESHOLDS[0], _ranked(THRESHOLDS)),  # the mean is lower: it edits more
    ("target", "schedulers"): Setting((), _free),
    ("target", "steps"): Setting(None, _free),
    ("retain", "max_loss"): Setting(0.1, _lower),
    ("audit", "prompts"): Setting("", _same),
    ("audit", "seeds"): Setting((), _free),  # how many images there must be is minimum_n's to say
    ("audit", "minimum_n"): Setting(20, _higher),
    ("limits", "waiver_days"): Setting(90, _lower),
}
"""Of the policy as a whole."""

LISTS: Final = (("retain", "domains"), ("retain", "concepts"), ("retain", "prompts"))
"""Lists of names, each name a setting that is there or not."""


def setting_of(key: Key) -> Setting:
    """Default and order of the setting of this name."""
    if key in WHOLE:
        return WHOLE[key]
    if key[0] == "concepts" and len(key) > 2:
        return RULE[key[2:]]
    return _PRESENT


def key_text(key: Key) -> str:
    """A setting's name as people write it: ``concepts.pistol.strength``."""
    return ".".join(key)


def value_text(key: Key, value: Value) -> str:
    """A setting's value as a message shows it."""
    match value:
        case None | "" | ():
            return setting_of(key).unset
        case bool():
            return "there" if value else "absent"
        case float():
            return f"{value:g}"
        case Window():
            return f"{value.first}..{value.last}"
        case tuple():
            return ", ".join(map(str, value))
    return str(value)


def settings_of(policy: Policy) -> dict[Key, Value]:
    """All settings of ``policy``, also those that have their default; the order of what was written has no effect."""
    found: dict[Key, Value] = {
        ("target", "model"): policy.model,
        ("target", "fingerprint"): policy.fingerprint,
        ("target", "branches"): policy.branches,
        ("target", "threshold"): policy.threshold,
        ("target", "schedulers"): tuple(sorted(policy.tested.schedulers)),
        ("target", "steps"): policy.tested.steps,
        ("retain", "max_loss"): policy.retain.max_loss,
        ("audit", "prompts"): policy.audit.prompts,
        ("audit", "seeds"): tuple(sorted(policy.audit.seeds)),
        ("audit", "minimum_n"): policy.audit.minimum_n,
        ("limits", "waiver_days"): policy.waiver_days,
    }
    for rule in policy.concepts:
        found |= _rule_settings(rule)
    retained = (policy.retain.domains, policy.retain.concepts, policy.retain.prompts)
    for names, path in zip(retained, LISTS, strict=True):
        found |= {(*path, name): True for name in names}
    return found


def _rule_settings(rule: ConceptRule) -> dict[Key, Value]:
    values = (
        rule.action,
        rule.mode,
        rule.strength,
        rule.multiplier,
        rule.selection.method,
        rule.selection.max_features,
        rule.selection.min_score,
        tuple(sorted(rule.selection.features)),
        rule.window,
        rule.severity,
        rule.share,
        rule.removal,
        rule.confidence,
    )
    above = ("concepts", rule.concept)
    return {above: True} | {(*above, *key): value for key, value in zip(RULE, values, strict=True)}


def rules_from(settings: Settings, places: Mapping[str, Place]) -> tuple[ConceptRule, ...]:
    """The rules that ``settings`` describe, in the order in which their concepts first occur there."""
    concepts = [key[1] for key in settings if key[0] == "concepts" and len(key) == 2]
    return tuple(_rule_from(concept, settings, places[key_text(("concepts", concept))]) for concept in concepts)


def _rule_from(concept: str, settings: Settings, place: Place) -> ConceptRule:
    def of(*key: str) -> Value:
        return settings.get(("concepts", concept, *key), RULE[key].default)

    return ConceptRule(
        concept=concept,
        place=place,
        action=of("action"),
        mode=of("mode"),
        strength=of("strength"),
        multiplier=of("multiplier"),
        selection=Selection(
            method=of("selection", "method"),
            max_features=of("selection", "max_features"),
            min_score=of("selection", "min_score"),
            features=of("selection", "features"),
        ),
        window=of("timesteps"),
        severity=of("severity"),
        share=of("share"),
        removal=of("require", "removal"),
        confidence=of("require", "confidence"),
    )


def retain_from(settings: Settings, place: Place) -> Retain:
    """What ``settings`` retain, in the order in which it occurs there."""
    domains, concepts, prompts = (
        tuple(key[2] for key in settings if key[:2] == path and len(key) == 3) for path in LISTS
    )
    return Retain(domains, concepts, settings[("retain", "max_loss")], place, prompts)


def audit_from(settings: Settings, place: Place) -> Audit:
    """How ``settings`` have the policy judged."""
    return Audit(settings["audit", "prompts"], settings["audit", "seeds"], settings["audit", "minimum_n"], place)


def tested_from(settings: Settings) -> Tested:
    """What ``settings`` say the policy was tested with."""
    return Tested(settings[("target", "schedulers")], settings[("target", "steps")])
