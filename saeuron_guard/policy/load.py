"""From a policy file to a validated, frozen ``Policy``, or to all that is wrong with the file."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from saeuron_guard.digests import digest_of
from saeuron_guard.documents import Document, document_problems, draft_document
from saeuron_guard.errors import PolicyError, Problem
from saeuron_guard.names import API_VERSION, BRANCHES, STRENGTH_PRESETS, THRESHOLDS
from saeuron_guard.policy.model import Audit, ConceptRule, Place, Policy, Retain
from saeuron_guard.policy.schema import policy_schema
from saeuron_guard.strict_yaml import Pointer
from saeuron_guard.wording import quote

_DEFAULT_STRENGTH = "medium"
_DEFAULT_REMOVAL = 0.85
_DEFAULT_MAX_LOSS = 0.1
_DEFAULT_MINIMUM_N = 20


def load_policy(path: str | Path) -> Policy:
    """Read, check and freeze a policy; raises PolicyError with every problem of the file.

    Whether the registry knows its model, domains and concepts is for the compiler to say.
    """
    document = draft_document(Path(path), error=PolicyError)
    problems = document_problems(document, policy_schema(), "Policy")
    problems += _contradictions(document)
    if problems:
        raise PolicyError(problems)
    return _policy(document)


def _contradictions(document: Document) -> Iterator[Problem]:
    """Concepts that are removed twice, or removed and retained; reads what is well-formed of a faulty document."""
    removed: dict[str, Pointer] = {}
    for pointer, name in _named(document.value, "concepts"):
        if name in removed:
            line, column = document.place(removed[name])
            message = f"concept {quote(name)} is removed twice (first at {line}:{column}); keep one entry"
            yield document.problem(pointer, message)
        removed.setdefault(name, pointer)
    for pointer, name in _named(document.value, "retain", "concepts"):
        if name in removed:
            line, column = document.place(removed[name])
            message = f"concept {quote(name)} is retained here but removed at {line}:{column}; drop one of the two"
            yield document.problem(pointer, message)


def _named(value: Any, *keys: str) -> Iterator[tuple[Pointer, str]]:
    """Names in the list below ``keys``, given as ``- name`` or as ``- concept: name``, with their pointers."""
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    for position, entry in enumerate(value if isinstance(value, list) else []):
        name = entry.get("concept") if isinstance(entry, dict) else entry
        if isinstance(name, str):
            yield (*keys, position, *(("concept",) if isinstance(entry, dict) else ())), name


def _policy(document: Document) -> Policy:
    value = document.value
    metadata = value["metadata"]
    policy = Policy(
        name=metadata["name"],
        version=metadata["version"],
        owner=metadata["owner"],
        description=metadata.get("description", ""),
        model=value["target"]["model"],
        branches=value["target"].get("branches", BRANCHES[0]),
        threshold=value["target"].get("threshold", THRESHOLDS[0]),
        concepts=tuple(_rule(document, position) for position in range(len(value["concepts"]))),
        retain=_retain(document),
        audit=_audit(document),
        digest="",
        file=document.file,
        model_place=_place(document, ("target", "model")),
    )
    return dataclasses.replace(policy, digest=digest_of(_meaning(policy)))


def _rule(document: Document, position: int) -> ConceptRule:
    entry = document.value["concepts"][position]
    strength = entry.get("strength", _DEFAULT_STRENGTH)
    multiplier, max_features = entry.get("multiplier"), entry.get("max_features")
    return ConceptRule(
        concept=entry["concept"],
        strength=STRENGTH_PRESETS[strength] if isinstance(strength, str) else _number(strength),
        multiplier=None if multiplier is None else _number(multiplier),
        max_features=None if max_features is None else int(max_features),
        removal=_number(entry.get("require", {}).get("removal", _DEFAULT_REMOVAL)),
        place=_place(document, ("concepts", position, "concept")),
    )


def _retain(document: Document) -> Retain:
    entry = document.value["retain"]
    return Retain(
        domains=tuple(entry.get("domains", ())),
        concepts=tuple(entry.get("concepts", ())),
        max_loss=_number(entry.get("max_loss", _DEFAULT_MAX_LOSS)),
        place=Place(document.file, *document.key_place(("retain",))),
    )


def _audit(document: Document) -> Audit:
    entry = document.value["audit"]
    return Audit(
        prompts=entry["prompts"],
        seeds=tuple(int(seed) for seed in entry["seeds"]),
        minimum_n=int(entry.get("minimum_n", _DEFAULT_MINIMUM_N)),
        place=_place(document, ("audit", "prompts")),
    )


def _meaning(policy: Policy) -> dict[str, Any]:
    """What the digest covers: what is removed, retained and required, under which name and version.

    Owner and description are for readers; the order of concepts, domains and seeds has no effect.
    """
    return {
        "apiVersion": API_VERSION,
        "name": policy.name,
        "version": policy.version,
        "model": policy.model,
        "branches": policy.branches,
        "threshold": policy.threshold,
        "concepts": sorted(
            (
                {
                    "concept": rule.concept,
                    "strength": rule.strength,
                    "multiplier": rule.multiplier,
                    "max_features": rule.max_features,
                    "removal": rule.removal,
                }
                for rule in policy.concepts
            ),
            key=lambda rule: str(rule["concept"]),
        ),
        "retain": {
            "domains": sorted(policy.retain.domains),
            "concepts": sorted(policy.retain.concepts),
            "max_loss": policy.retain.max_loss,
        },
        "audit": {
            "prompts": policy.audit.prompts,
            "seeds": sorted(policy.audit.seeds),
            "minimum_n": policy.audit.minimum_n,
        },
    }


def _number(value: float) -> float:
    """One float for all ways to write a number: 1 and 1.0, 0 and -0.0."""
    return float(value) + 0.0


def _place(document: Document, pointer: Pointer) -> Place:
    return Place(document.file, *document.place(pointer))
