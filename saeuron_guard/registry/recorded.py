"""Policies, guards and verifications, as rows: each is written once, with its event."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator
from typing import Any, Final

from sqlalchemy import Connection, select

from saeuron_guard.digests import canonical_json, digest_of
from saeuron_guard.registry.events import all_events, append_event
from saeuron_guard.registry.ordering import by_code_points
from saeuron_guard.registry.records import GuardFeature, GuardRecord, PolicyRecord, VerificationRecord
from saeuron_guard.registry.reviews import all_reviews, review_payload
from saeuron_guard.registry.stamp import Stamp
from saeuron_guard.registry.tables import guard_features, guards, policies, verification_runs

Noted = tuple[str, str, str]
"""Kind, subject and payload of an event, without its place in the chain."""

_RECORDED: Final = ("review", "policy", "guard", "verification")


def add_policy(connection: Connection, policy: PolicyRecord) -> bool:
    """Record a policy; False when it was recorded before, which then stands."""
    if connection.execute(select(policies.c.digest).where(policies.c.digest == policy.digest)).first():
        return False
    connection.execute(policies.insert(), dataclasses.asdict(policy))
    append_event(connection, Stamp(policy.by, policy.when), *_policy_event(policy))
    return True


def add_guard(connection: Connection, guard: GuardRecord) -> bool:
    """Record a guard of a recorded policy; False when it was recorded before, which then stands."""
    if connection.execute(select(guards.c.digest).where(guards.c.digest == guard.digest)).first():
        return False
    row = dataclasses.asdict(guard)
    del row["features"]
    connection.execute(guards.insert(), row)
    if guard.features:
        connection.execute(guard_features.insert(), [_feature_row(guard.digest, used) for used in guard.features])
    names = {policy.digest: policy.name for policy in all_policies(connection)}
    append_event(connection, Stamp(guard.by, guard.when), *_guard_event(guard, names[guard.policy_digest]))
    return True


def add_verification(connection: Connection, run: VerificationRecord) -> None:
    """Record a verification of a recorded guard."""
    row = dataclasses.asdict(run)
    connection.execute(verification_runs.insert(), {**row, "seeds": list(run.seeds), "figures": dict(run.figures)})
    names = {policy.digest: policy.name for policy in all_policies(connection)}
    append_event(connection, Stamp(run.by, run.when), *_verification_event(run, names[run.policy_digest]))


def all_policies(connection: Connection) -> list[PolicyRecord]:
    """Every recorded policy, oldest first."""
    rows = connection.execute(
        select(policies).order_by(
            by_code_points(policies.c.when), by_code_points(policies.c.name), by_code_points(policies.c.digest)
        )
    )
    return [PolicyRecord(**row._mapping) for row in rows]  # noqa: SLF001 - public in spite of its name


def all_guards(connection: Connection, sae: str | None = None, index: int | None = None) -> list[GuardRecord]:
    """Every recorded guard (that uses feature ``index`` of ``sae``), oldest first, with all of its features."""
    features: dict[str, list[GuardFeature]] = {}
    for row in connection.execute(
        select(guard_features).order_by(
            by_code_points(guard_features.c.sae), guard_features.c.feature, by_code_points(guard_features.c.concept)
        )
    ):
        used = GuardFeature(row.sae, row.sae_digest, row.feature, row.concept, row.strength)
        features.setdefault(row.guard_digest, []).append(used)
    query = select(guards).order_by(by_code_points(guards.c.when), by_code_points(guards.c.digest))
    if sae is not None:
        uses = (guard_features.c.sae == sae) & (guard_features.c.feature == index)
        query = query.where(guards.c.digest.in_(select(guard_features.c.guard_digest).where(uses)))
    rows = connection.execute(query)
    return [GuardRecord(**row._mapping, features=tuple(features.get(row.digest, ()))) for row in rows]  # noqa: SLF001


def all_verifications(connection: Connection) -> list[VerificationRecord]:
    """Every recorded verification, oldest first."""
    rows = connection.execute(
        select(verification_runs).order_by(by_code_points(verification_runs.c.when), verification_runs.c.id)
    )
    return [
        VerificationRecord(
            **{name: value for name, value in row._mapping.items() if name not in ("id", "seeds")},  # noqa: SLF001
            seeds=tuple(row.seeds),
        )
        for row in rows
    ]


def record_problems(connection: Connection) -> list[str]:
    """Where the records and the chain of events contradict each other, in words: one was changed past the other."""
    noted = Counter(
        (event.kind, event.subject, event.payload) for event in all_events(connection) if event.kind in _RECORDED
    )
    there = Counter((kind, subject, canonical_json(payload)) for kind, subject, payload in _records(connection))
    problems = [f"{_words(lost)} is in the chain of events but not among the records" for lost in noted - there]
    problems += [f"{_words(new)} is among the records but not in the chain of events" for new in there - noted]
    return sorted(problems)


def _words(noted: Noted) -> str:
    kind, subject, payload = noted
    return f"{kind} {subject} {payload if len(payload) < 200 else payload[:197] + '...'}"


def _records(connection: Connection) -> Iterator[tuple[str, str, dict[str, Any]]]:
    names = {policy.digest: policy.name for policy in all_policies(connection)}
    for review in all_reviews(connection):
        yield "review", review.feature, review_payload(review)
    for policy in all_policies(connection):
        yield _policy_event(policy)
    for guard in all_guards(connection):
        yield _guard_event(guard, names.get(guard.policy_digest, ""))
    for run in all_verifications(connection):
        yield _verification_event(run, names.get(run.policy_digest, ""))


def _policy_event(policy: PolicyRecord) -> tuple[str, str, dict[str, Any]]:
    return "policy", policy.name, dataclasses.asdict(policy)


def _guard_event(guard: GuardRecord, policy: str) -> tuple[str, str, dict[str, Any]]:
    payload = dataclasses.asdict(guard)
    features = sorted(payload["features"], key=lambda used: (used["sae"], used["index"], used["concept"]))
    return "guard", guard.digest, {**payload, "features": features, "policy": policy}


def _verification_event(run: VerificationRecord, policy: str) -> tuple[str, str, dict[str, Any]]:
    payload = {**dataclasses.asdict(run), "seeds": list(run.seeds), "figures": digest_of(dict(run.figures))}
    return "verification", run.guard_digest, {**payload, "policy": policy}


def _feature_row(guard: str, used: GuardFeature) -> dict[str, Any]:
    row = dataclasses.asdict(used)
    row["feature"] = row.pop("index")
    return {"guard_digest": guard, **row}
