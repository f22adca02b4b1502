"""Merges a policy with the policies that it extends: everything that any of them demands, and nothing less.

Settings are ordered from loose to strict (see ``policy.settings``).  Among bases the strictest value holds; what the
policy itself says must be at least as strict as each base, unless a waiver covers it.  So extending one more policy
never takes anything away.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from saeuron_guard.errors import Problem
from saeuron_guard.policy.declare import Declared
from saeuron_guard.policy.model import Place, Policy
from saeuron_guard.policy.settings import (
    WHOLE,
    Key,
    Value,
    key_text,
    setting_of,
    settings_of,
    value_text,
)
from saeuron_guard.policy.waivers import Evaluator
from saeuron_guard.wording import did_you_mean, quote


@dataclass(frozen=True, slots=True)
class Extension:
    """A base as one policy extends it: without some of its concepts, each with the place that says so."""

    base: Policy
    without: tuple[tuple[str, Place], ...] = ()


@dataclass(frozen=True, slots=True)
class Merged:
    """All settings with their defaults, where each was written, and what was loosened without leave."""

    settings: dict[Key, Value]
    places: dict[str, Place]
    problems: tuple[Problem, ...]


def merge(own: Declared, extensions: Sequence[Extension], evaluator: Evaluator, here: Place) -> Merged:
    """Merge what a file says with what it extends; ``here``: the place for problems of the file as a whole."""
    merging = _Merging(own, tuple(_Held(extension) for extension in extensions), evaluator, here)
    for held in merging.bases:
        merging.problems += _left_out(held, evaluator)
    for key in _keys(own, merging.bases):
        merging.settle(key)
    return Merged(merging.settings, merging.places, tuple(merging.problems))


class _Held:
    """The settings that one base brings in."""

    def __init__(self, extension: Extension) -> None:
        self.extension = extension
        self.policy = extension.base
        self.left_out = {name for name, _ in extension.without}
        self.all = settings_of(extension.base)
        self.settings = {key: value for key, value in self.all.items() if not self._is_left_out(key)}

    def _is_left_out(self, key: Key) -> bool:
        return key[0] == "concepts" and key[1] in self.left_out

    @property
    def title(self) -> str:
        return f"{self.policy.name} {self.policy.version}"

    def place_of(self, key: Key) -> Place:
        """Where the base says it; of a default, the nearest thing above."""
        for length in range(len(key), 0, -1):
            if place := self.policy.places.get(key_text(key[:length])):
                return place
        return Place(self.policy.file, 1, 1)


def _keys(own: Declared, bases: Iterable[_Held]) -> list[Key]:
    """Every setting that anybody has, each thing before its parts."""
    keys = dict.fromkeys(WHOLE)
    for held in bases:
        keys |= dict.fromkeys(held.settings)
    return list(keys | dict.fromkeys(own.settings))


@dataclass
class _Merging:
    """The work of one ``merge``."""

    own: Declared
    bases: tuple[_Held, ...]
    evaluator: Evaluator
    here: Place

    def __post_init__(self) -> None:
        self.settings: dict[Key, Value] = {}
        self.places: dict[str, Place] = {}
        self.problems: list[Problem] = []

    def settle(self, key: Key) -> None:
        """Decide about one setting: what this file says if it may, else the strictest of the bases, else nothing."""
        holders = [held for held in self.bases if key in held.settings]
        if key in self.own.settings:
            value, place = self.own.settings[key], self.own.places[key_text(key)]
            for held in holders:
                self._require_tighter(key, held, value, place)
        elif holders:
            strictest = _strictest(key, holders)
            if strictest is None:
                self._disagree(key, holders)
                strictest = holders[0]
            value, place = strictest.settings[key], strictest.place_of(key)
        elif key in WHOLE:
            value, place = WHOLE[key].default, self.here
        else:
            return
        self.settings[key], self.places[key_text(key)] = value, place

    def _require_tighter(self, key: Key, held: _Held, value: Value, place: Place) -> None:
        before = held.settings[key]
        setting = setting_of(key)
        if setting.at_least(before, value):
            return
        name = key_text(key)
        if key[0] == "target" and key[1] in ("model", "fingerprint"):
            message = f"{name} is {value_text(key, value)}, but {held.title} is for {value_text(key, before)}; "
            self.problems.append(place.problem(message + "a policy extends policies for its own model only"))
            return
        ruling = self.evaluator.rule(name)
        if ruling.waived:
            return
        looser = "looser than" if setting.at_least(value, before) else "not comparable with"
        there = held.place_of(key)
        message = (
            f"{name} is {value_text(key, value)} here, {looser} {value_text(key, before)} of {held.title} "
            f"({there}), and a policy can only tighten what it extends. "
            f"Tighten it, remove it here, or add a waiver for {quote(name)}."
        )
        if ruling.expired:
            message += f" The waiver for it expired on {ruling.expired.expires}."
        self.problems.append(place.problem(message))

    def _disagree(self, key: Key, holders: Sequence[_Held]) -> None:
        name = key_text(key)
        told = " and ".join(f"{held.title} says {value_text(key, held.settings[key])}" for held in holders)
        message = f"the extended policies disagree about {name}: {told}. Say here what holds, with a waiver for it."
        self.problems.append(self.here.problem(message))


def _strictest(key: Key, holders: Sequence[_Held]) -> _Held | None:
    """A base whose value is at least as strict as everybody's; None when there is none.

    Of a setting without an order (seeds, tested schedulers) the longest value, then the last in the alphabet: whatever
    order the bases are in, it is the same.
    """
    at_least = setting_of(key).at_least
    strictest = [
        held for held in holders if all(at_least(other.settings[key], held.settings[key]) for other in holders)
    ]

    def length(held: _Held) -> tuple[int, str]:
        value = held.settings[key]
        return (len(value) if isinstance(value, tuple) else 0, repr(value))

    return max(strictest, key=length, default=None)


def _left_out(held: _Held, evaluator: Evaluator) -> Iterator[Problem]:
    """Concepts that this policy does not take over from a base."""
    removed = [rule.concept for rule in held.policy.concepts]
    for name, place in held.extension.without:
        setting = key_text(("concepts", name))
        if name not in removed:
            message = f"{held.title} does not remove {quote(name)}.{did_you_mean(name, removed)} It removes "
            yield place.problem(message + f"{', '.join(sorted(removed))}.")
            continue
        ruling = evaluator.rule(setting)
        if ruling.waived:
            continue
        message = (
            f"{held.title} removes {quote(name)}, and a policy can only tighten what it extends. Remove it from "
            f"without, or add a waiver for {quote(setting)}."
        )
        if ruling.expired:
            message += f" The waiver for it expired on {ruling.expired.expires}."
        yield place.problem(message)


def retained_and_removed(policy: Policy) -> Iterator[Problem]:
    """Concepts that one of the merged policies removes and another one retains by name."""
    removed = {rule.concept: rule.place for rule in policy.concepts}
    for name in policy.retain.concepts:
        if name in removed:
            one, other = policy.places[key_text(("retain", "concepts", name))], removed[name]
            message = (
                f"concept {quote(name)} is removed here but retained at {one}; a policy "
                f"cannot do both. Extend another policy, or leave the concept alone."
            )
            yield other.problem(message)
