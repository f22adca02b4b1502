"""What auditors ask of the records: what changed when, what a feature's reviews say, which guards rest on what."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from saeuron_guard.errors import RegistryError
from saeuron_guard.names import FEATURE, feature_name
from saeuron_guard.registry.database import reading
from saeuron_guard.registry.events import all_events
from saeuron_guard.registry.manifest import rounded
from saeuron_guard.registry.pages import FeaturePage
from saeuron_guard.registry.recorded import all_guards, all_policies, all_verifications
from saeuron_guard.registry.records import (
    Event,
    GuardFeature,
    GuardRecord,
    PolicyRecord,
    Review,
    VerificationRecord,
)
from saeuron_guard.registry.reviews import all_reviews
from saeuron_guard.registry.store import FeatureRegistry
from saeuron_guard.wording import did_you_mean, quote

SHORTEST_DIGEST: Final = len("sha256:") + 8
"""Characters of a digest that are enough to name a policy or a guard."""


@dataclass(frozen=True, slots=True)
class Change:
    """An event with its payload read."""

    event: Event
    payload: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ReviewState:
    """A review as it stands today.

    ``counts``: whether the SAE is still the one that was reviewed.  ``unchanged``: whether the feature's page is the
    one that was reviewed; None when no page was kept, or when the feature is gone.
    """

    review: Review
    counts: bool
    unchanged: bool | None


@dataclass(frozen=True, slots=True)
class RecordedGuard:
    """A recorded guard with its policy, its newest verification if any, and the reviews that speak against it.

    ``rejected``: features whose newest review, of the SAE that the guard was built on, is rejected or quarantined.
    """

    guard: GuardRecord
    policy: PolicyRecord
    verification: VerificationRecord | None
    rejected: tuple[tuple[GuardFeature, Review], ...]


def history(
    registry: FeatureRegistry, name: str | None = None, since: str | None = None, until: str | None = None
) -> list[Change]:
    """What changed from ``since`` to ``until`` (times as the registry writes them, both included), oldest first.

    ``name``: only what concerns this concept, feature, SAE, policy, guard (the beginning of its digest will do) or
    other named thing; RegistryError when the registry never heard of it.
    """
    with reading(registry.engine) as connection:
        changes = [_read(event) for event in all_events(connection)]
    if name is not None:
        changes = _concerning(name, changes)
    return [
        change
        for change in changes
        if (since is None or change.event.when >= since) and (until is None or change.event.when <= until)
    ]


def reviews_of(registry: FeatureRegistry, feature: str, page: FeaturePage) -> list[ReviewState]:
    """Every review of a feature, oldest first; ``page``: what its page looks like now."""
    sae, index = registry.feature(feature)
    with reading(registry.engine) as connection:
        found = all_reviews(connection, sae.name, index)
    now = rounded(page)
    return [
        ReviewState(review, review.sae_digest == sae.digest, review.page == now if review.page else None)
        for review in found
    ]


def recorded_guards(
    registry: FeatureRegistry,
    *,
    policy: str | None = None,
    feature: str | None = None,
    rejected: bool = False,
) -> list[RecordedGuard]:
    """Recorded guards, oldest first: of a policy, that use a feature, or built on a rejected one.

    RegistryError when no policy of that name was recorded.
    """
    sae, index = (None, None) if feature is None else _sae_and_index(registry, feature)
    with reading(registry.engine) as connection:
        policies = {known.digest: known for known in all_policies(connection)}
        guards = all_guards(connection, sae, index)
        runs = {run.guard_digest: run for run in all_verifications(connection)}
        newest = {(review.feature, review.sae_digest): review for review in all_reviews(connection)}
    if policy is not None:
        names = {known.name for known in policies.values()}
        if policy not in names:
            raise RegistryError(f"no policy {quote(policy)} is recorded.{did_you_mean(policy, names)}")
        guards = [guard for guard in guards if policies[guard.policy_digest].name == policy]
    found = [
        RecordedGuard(guard, policies[guard.policy_digest], runs.get(guard.digest), _rejected(guard, newest))
        for guard in guards
    ]
    return [guard for guard in found if guard.rejected] if rejected else found


def _sae_and_index(registry: FeatureRegistry, feature: str) -> tuple[str, int]:
    sae, index = registry.feature(feature)
    return sae.name, index


def _rejected(guard: GuardRecord, newest: Mapping[tuple[str, str], Review]) -> tuple[tuple[GuardFeature, Review], ...]:
    found = ((used, newest.get((used.feature, used.sae_digest))) for used in guard.features)
    return tuple((used, review) for used, review in found if review and review.verdict != "approved")


def _read(event: Event) -> Change:
    try:
        payload = json.loads(event.payload)
        change = Change(event, payload)
        _names_in(change)
    except (ValueError, TypeError, KeyError, AttributeError):
        raise RegistryError(
            f'the payload of event {event.seq} ({event.kind}) cannot be read: see "saeuron-guard registry check"'
        ) from None
    return change


def _concerning(name: str, changes: list[Change]) -> list[Change]:
    match = FEATURE.fullmatch(name)
    wanted = {feature_name(match["sae"], int(match["index"])), f"{match['sae']}:*"} if match else {name}
    by_digest = len(name) >= SHORTEST_DIGEST and name.startswith("sha256:")
    found, known = [], set()
    for change in changes:
        names = _names_in(change)
        known |= names
        if names & wanted or (by_digest and any(other.startswith(name) for other in names)):
            found.append(change)
    if not found:
        readable = {other for other in known if not other.startswith("sha256:") and not other.endswith(":*")}
        raise RegistryError(f"nothing is recorded about {quote(name)}.{did_you_mean(name, readable)}")
    return found


def _names_in(change: Change) -> set[str]:
    """Everything by which an event can be asked for; ``sae:*`` stands for all features of an SAE."""
    return _NAMES[change.event.kind](change.payload) if change.event.kind in _NAMES else set()


def _names_in_content(payload: Mapping[str, Any]) -> set[str]:
    names: set[str] = {payload["manifest"]}
    for part in ("added", "removed", "changed"):
        for kind, found in payload[part].items():
            names |= set(found)
            if kind in ("calibrations", "prompt_sets"):  # model/concept, role/name
                names |= {name.partition("/")[2] for name in found}
            if kind == "saes":
                names |= {f"{name}:*" for name in found}
    return names


def _names_in_review(payload: Mapping[str, Any]) -> set[str]:
    return {feature_name(payload["sae"], payload["index"]), payload["sae"], *payload["concepts"]}


def _names_in_policy(payload: Mapping[str, Any]) -> set[str]:
    return {payload["name"], payload["digest"]}


def _names_in_guard(payload: Mapping[str, Any]) -> set[str]:
    features = payload["features"]
    names = {payload["policy"], payload["policy_digest"], payload["digest"], payload["model"]}
    names |= {used["concept"] for used in features} | {used["sae"] for used in features}
    return names | {feature_name(used["sae"], used["index"]) for used in features}


def _names_in_verification(payload: Mapping[str, Any]) -> set[str]:
    return {payload["policy"], payload["policy_digest"], payload["guard_digest"], payload["judge"]}


_NAMES: Final = {
    "content": _names_in_content,
    "review": _names_in_review,
    "policy": _names_in_policy,
    "guard": _names_in_guard,
    "verification": _names_in_verification,
}
