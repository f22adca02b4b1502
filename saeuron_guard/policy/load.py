"""From a policy file to a validated, frozen ``Policy`` with its bases merged in, or to all that is wrong with it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from saeuron_guard.digests import digest_of
from saeuron_guard.documents import Document, document_problems, draft_document
from saeuron_guard.errors import PolicyError, Problem
from saeuron_guard.names import API_VERSION, STATUSES
from saeuron_guard.policy.bases import find_base, seen_from
from saeuron_guard.policy.declare import Declared, contradictions, declare, declared_tests, place_at
from saeuron_guard.policy.extend import Extension, Merged, merge, retained_and_removed
from saeuron_guard.policy.model import Base, Place, Policy, PolicyTest, Waiver, Window
from saeuron_guard.policy.schema import policy_schema
from saeuron_guard.policy.settings import (
    audit_from,
    key_text,
    retain_from,
    rules_from,
    settings_of,
    tested_from,
)
from saeuron_guard.policy.waivers import Evaluator, declared_waivers, overlong, unknown
from saeuron_guard.wording import quote


def load_policy(path: str | Path, *, today: date | None = None) -> Policy:
    """Read, check and freeze a policy with all that it extends; raises PolicyError with every problem of the files.

    ``today``: the day on which waivers are judged, by default the present one (UTC).
    Whether the registry knows its model, domains and concepts is for the compiler to say.
    """
    return _Loading(today or datetime.now(UTC).date()).load(Path(path), ())


@dataclass
class _Loading:
    """One call of ``load_policy``: a base that several policies extend is read once."""

    today: date
    loaded: dict[Path, Policy] = field(default_factory=dict)

    def load(self, path: Path, chain: tuple[Path, ...]) -> Policy:
        """The policy in ``path``, which the policies of ``chain`` extend."""
        document = draft_document(path, error=PolicyError)
        problems = document_problems(document, policy_schema(), "Policy")
        problems += contradictions(document)
        if problems:
            raise PolicyError(problems)
        extensions = self._extensions(document, path, chain, problems)
        waivers, faults = declared_waivers(document, self.today)
        problems += faults
        if problems:
            raise PolicyError(problems)
        return self._merged(document, extensions, waivers)

    def _merged(self, document: Document, extensions: list[Extension], waivers: tuple[Waiver, ...]) -> Policy:
        own, evaluator = declare(document), Evaluator(waivers)
        merged = merge(own, extensions, evaluator, _whole(document))
        problems = [*merged.problems, *self._waiver_problems(waivers, extensions)]
        tests = _tests(document, extensions, problems)
        policy = _policy(document, merged, extensions, evaluator.waivers(), tests, own)
        problems += retained_and_removed(policy) if extensions else ()
        if problems:
            raise PolicyError(problems)
        return dataclasses.replace(policy, digest=policy_digest(policy))

    def _extensions(
        self, document: Document, path: Path, chain: tuple[Path, ...], problems: list[Problem]
    ) -> list[Extension]:
        found: list[Extension] = []
        for position, entry in enumerate(document.value.get("extends", ())):
            pointer = ("extends", position, *(("policy",) if isinstance(entry, dict) else ()))
            stated = entry if isinstance(entry, dict) else {"policy": entry}
            try:
                base = self._base(document, pointer, stated["policy"], (*chain, path.resolve()))
            except PolicyError as error:
                problems += error.problems
                continue
            if any(base.file == other.base.file for other in found):
                problems.append(document.problem(pointer, f"{quote(stated['policy'])} is extended twice; keep one"))
                continue
            if stated.get("digest", base.digest) != base.digest:
                problems.append(
                    document.problem(
                        ("extends", position, "digest"),
                        f"{base.name} {base.version} has digest {base.digest}, expected {stated['digest']}: it has "
                        f"changed. Review the change (saeuron-guard policy plan), then pin the new digest.",
                    )
                )
            without = tuple(
                (name, place_at(document, ("extends", position, "without", number)))
                for number, name in enumerate(stated.get("without", ()))
            )
            found.append(Extension(seen_from(path.parent, base), without))
        return found

    def _base(self, document: Document, pointer: tuple[Any, ...], name: str, chain: tuple[Path, ...]) -> Policy:
        """The base of this name; its own problems come with one that says which line asked for it."""
        try:
            path = find_base(name, chain[-1].parent, Path(document.file).parent)
        except ValueError as error:
            raise PolicyError([document.problem(pointer, str(error))]) from None
        resolved = path.resolve()
        if resolved in chain:
            way = " -> ".join(one.name for one in (*chain[chain.index(resolved) :], resolved))
            raise PolicyError([document.problem(pointer, f"{quote(name)} extends itself: {way}; break the circle")])
        if resolved not in self.loaded:
            try:
                self.loaded[resolved] = self.load(path, chain)
            except PolicyError as error:
                here = document.problem(pointer, f"{quote(name)}, which this policy extends, is not valid")
                raise PolicyError([*error.problems, here]) from None
        return self.loaded[resolved]

    def _waiver_problems(self, waivers: tuple[Waiver, ...], extensions: list[Extension]) -> Iterator[Problem]:
        known = dict.fromkeys(key_text(key) for extension in extensions for key in settings_of(extension.base))
        yield from unknown((waiver for waiver in waivers if waiver.state != "expired"), list(known))
        if extensions:
            strictest = min((extension.base for extension in extensions), key=lambda base: base.waiver_days)
            title = f"{strictest.name} {strictest.version}"
            yield from overlong(waivers, self.today, strictest.waiver_days, title)


def _whole(document: Document) -> Place:
    """Where to put what is wrong with the policy as a whole: at its list of bases, if it has one."""
    return Place(document.file, *document.key_place(("extends",)))


def _tests(document: Document, extensions: list[Extension], problems: list[Problem]) -> tuple[PolicyTest, ...]:
    """The tests of the bases and of the file; what a base tests cannot be tested otherwise."""
    found: dict[tuple[str, str | None, int], PolicyTest] = {}
    for test in (*(test for extension in extensions for test in extension.base.tests), *declared_tests(document)):
        first = found.setdefault((test.prompt, test.concept, test.seed), test)
        if (first.expect, first.todo, first.share) != (test.expect, test.todo, test.share):
            message = (
                f"{first.place} tests this prompt, concept and seed already, with another "
                f"expectation; a policy cannot change what the policies that it extends test"
            )
            problems.append(test.place.problem(message))
    return tuple(found.values())


def _policy(
    document: Document,
    merged: Merged,
    extensions: list[Extension],
    waivers: tuple[Waiver, ...],
    tests: tuple[PolicyTest, ...],
    own: Declared,
) -> Policy:
    metadata, settings = document.value["metadata"], merged.settings
    bases = [extension.base for extension in extensions]
    retain, audit = ("retain",), ("audit", "prompts")
    return Policy(
        name=metadata["name"],
        version=metadata["version"],
        owner=metadata["owner"],
        description=metadata.get("description", ""),
        status=metadata.get("status", STATUSES[0]),
        references=_union([*(base.references for base in bases), metadata.get("references", ())]),
        side_effects=_union([*(base.side_effects for base in bases), metadata.get("side_effects", ())]),
        model=settings["target", "model"],
        fingerprint=settings["target", "fingerprint"],
        branches=settings["target", "branches"],
        threshold=settings["target", "threshold"],
        tested=tested_from(settings),
        concepts=rules_from(settings, merged.places),
        retain=retain_from(settings, Place(document.file, *document.key_place(retain))),
        audit=audit_from(
            settings, place_at(document, audit) if audit in own.settings else merged.places["audit.prompts"]
        ),
        file=document.file,
        model_place=merged.places["target.model"],
        bases=tuple(dict.fromkeys(one for base in bases for one in (*base.bases, _as_base(base)))),
        waivers=tuple(dict.fromkeys((*(waiver for base in bases for waiver in base.waivers), *waivers))),
        tests=tests,
        waiver_days=settings["limits", "waiver_days"],
        places=merged.places,
    )


def _as_base(policy: Policy) -> Base:
    return Base(policy.name, policy.version, policy.digest, policy.file, policy.status)


def _union(lists: list[Any]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(text for some in lists for text in some))


def policy_digest(policy: Policy) -> str:
    """The digest of what the policy means: its settings, tests and waivers under its name and version.

    Owner, description and other words for readers are no part of it, and the order of anything has no effect; nor has
    the day, so an expired waiver counts as written.
    """
    return digest_of(
        {
            "apiVersion": API_VERSION,
            "name": policy.name,
            "version": policy.version,
            "settings": {key_text(key): _json(value) for key, value in settings_of(policy).items()},
            "tests": sorted(
                [test.prompt, test.concept or "", test.seed, test.expect, test.share, test.todo or ""]
                for test in policy.tests
            ),
            "waivers": sorted([waiver.policy, waiver.what, waiver.expires.isoformat()] for waiver in policy.waivers),
        }
    )


def _json(value: Any) -> Any:
    if isinstance(value, Window):
        return [value.first, value.last]
    return list(value) if isinstance(value, tuple) else value
