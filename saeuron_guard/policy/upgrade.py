"""From a policy of an older apiVersion to one of this release, comments and all: one function for each step."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from saeuron_guard.errors import PolicyError, Problem
from saeuron_guard.names import API_VERSION, OLDER_POLICY_VERSIONS
from saeuron_guard.policy.format import compose_policy, written
from saeuron_guard.policy.layout import Entry, Mapping, Scalar, Sequence
from saeuron_guard.wording import describe, did_you_mean, one_of, quote


@dataclass(frozen=True, slots=True)
class Upgraded:
    """A policy of this release's version; ``changes`` are lines ``file:line:column: what`` with the old places.

    ``version`` is the one that the file was of. Without changes it is of this release's version, ``text`` as it was.
    """

    text: str
    version: str
    changes: tuple[str, ...] = ()


@dataclass(slots=True)
class _Journal:
    """What a step changes, and why it cannot."""

    file: str
    changes: list[str]
    problems: list[Problem]

    def change(self, entry: Entry, what: str) -> None:
        line, column = entry.place
        self.changes.append(f"{self.file}:{line}:{column}: {what}")

    def problem(self, entry: Entry, message: str) -> None:
        self.problems.append(Problem(self.file, *entry.place, message))


def upgrade_policy(text: str, file: str) -> Upgraded:
    """``text`` as a policy of API_VERSION in canonical layout; ``file`` is only named in problems.

    Raises PolicyError when the file is no policy of a known version, or says something twice once upgraded;
    SaeuronGuardError when the result cannot be read back.
    """
    layout = compose_policy(text, file)
    entry, version = _version(layout.root, file)
    if version == API_VERSION:
        return Upgraded(text, version)
    journal = _Journal(file, [], [])
    root = layout.root
    versions = (*OLDER_POLICY_VERSIONS, API_VERSION)
    for old, new in itertools.pairwise(versions[versions.index(version) :]):
        root = _with_version(STEPS[old](root, journal), new)
    if journal.problems:
        raise PolicyError(journal.problems)
    journal.change(entry, f"apiVersion: {version} -> {API_VERSION}")
    return Upgraded(written(replace(layout, root=root), file), version, tuple(sorted(journal.changes, key=_position)))


def _position(change: str) -> tuple[int, int]:
    """Line and column of a change; the file's name may hold colons, too."""
    line, column = change.partition(": ")[0].rsplit(":", 2)[1:]
    return int(line), int(column)


def _version(root: Mapping, file: str) -> tuple[Entry, str]:
    """The entry that names the file's version, and the version; raises PolicyError when it is not a known one."""
    entry = root.entry("apiVersion")
    known = one_of([quote(version) for version in (*OLDER_POLICY_VERSIONS, API_VERSION)])
    if entry is None:
        raise PolicyError([Problem(file, 1, 1, f"missing key 'apiVersion' (known versions: {known})")])
    version = entry.value.value if isinstance(entry.value, Scalar) else [] if isinstance(entry.value, Sequence) else {}
    if isinstance(version, str) and version in {*OLDER_POLICY_VERSIONS, API_VERSION}:
        return entry, version
    if not isinstance(version, str):
        raise PolicyError([Problem(file, *entry.place, f"expected apiVersion {known}, got {describe(version)}")])
    hint = did_you_mean(version, (*OLDER_POLICY_VERSIONS, API_VERSION))
    message = f"unknown apiVersion {quote(version)}. This release knows {known}"
    raise PolicyError([Problem(file, *entry.place, message + (f".{hint}" if hint else ""))])


def _with_version(root: Mapping, version: str) -> Mapping:
    return replace(
        root,
        entries=tuple(
            replace(entry, value=Scalar(version)) if entry.key == "apiVersion" else entry for entry in root.entries
        ),
    )


def _from_v1alpha1(root: Mapping, journal: _Journal) -> Mapping:
    """In v1alpha1 a rule held ``max_features`` and ``removal`` itself; now ``selection`` and ``require`` hold them."""
    entries = list(root.entries)
    for at, entry in enumerate(entries):
        if entry.key == "concepts" and isinstance(entry.value, Sequence):
            rules = [_rule(rule, f"concepts[{n}]", journal) for n, rule in enumerate(entry.value.entries)]
            entries[at] = replace(entry, value=replace(entry.value, entries=tuple(rules)))
    return replace(root, entries=tuple(entries))


def _rule(entry: Entry, where: str, journal: _Journal) -> Entry:
    rule = entry.value
    if isinstance(rule, Mapping):
        for key, below in (("max_features", "selection"), ("removal", "require")):
            rule = _moved(rule, key, below, where, journal)
        return replace(entry, value=rule)
    return entry


def _moved(rule: Mapping, key: str, below: str, where: str, journal: _Journal) -> Mapping:
    """``rule`` with its ``key`` in the mapping ``below``, which is made where ``key`` was if there is none."""
    moving, target = rule.entry(key), rule.entry(below)
    if moving is None:
        return rule
    if target is None:
        # The comments stay with the line that the value stays in.
        inner = Mapping((Entry(moving.value, key, place=moving.place),), flow=_fits_brackets(moving))
        made = replace(moving, key=below, value=inner)
        entries = [made if entry is moving else entry for entry in rule.entries]
    elif not isinstance(target.value, Mapping):
        value = target.value.value if isinstance(target.value, Scalar) else []
        journal.problem(target, f"expected a mapping to move {where}.{key} to, got {describe(value)} ({where}.{below})")
        return rule
    elif target.value.entry(key):
        journal.problem(moving, f"{where}.{key} is also given as {where}.{below}.{key}; keep one of the two")
        return rule
    else:
        added = replace(target.value, entries=(*target.value.entries, moving))
        kept = [entry for entry in rule.entries if entry is not moving]
        entries = [replace(entry, value=added) if entry is target else entry for entry in kept]
    journal.change(moving, f"{where}.{key} -> {where}.{below}.{key}")
    return replace(rule, entries=tuple(entries))


def _fits_brackets(entry: Entry) -> bool:
    return isinstance(entry.value, Scalar) and entry.value.block is None


STEPS: Final[dict[str, Callable[[Mapping, _Journal], Mapping]]] = {"saeuron-guard/v1alpha1": _from_v1alpha1}
"""What brings a policy of each older version to the next one."""
