"""What auditors ask of the records, and whether the records are those that the chain of events tells of."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from saeuron_guard.errors import RegistryError
from saeuron_guard.registry.database import reading
from saeuron_guard.registry.history import history, recorded_guards
from saeuron_guard.registry.recorded import all_guards, all_policies, all_verifications, record_problems
from saeuron_guard.registry.recording import record_guard, record_review, record_verification, require_writable
from saeuron_guard.registry.stamp import Stamp
from saeuron_guard.registry.store import FeatureRegistry
from tests.registry.synthetic import Synthetic, sae_name, write_synthetic_registry
from tests.registry.trail import (
    ANN,
    BOB,
    FEATURE,
    digest,
    guard_record,
    policy_record,
    tamper,
    verification_record,
)


@pytest.fixture
def registry(url: str, tmp_path: Path) -> Iterator[FeatureRegistry]:
    """Built and a guard recorded by ann on 1 March; on 2 March bob verified it and rejected its feature."""
    manifest = write_synthetic_registry(tmp_path / "source")
    with FeatureRegistry.open(url, manifest=manifest, stamp=ANN) as opened:
        record_guard(opened, policy_record(), guard_record(opened))
        record_verification(opened, policy_record(), guard_record(opened), verification_record())
        record_review(opened, FEATURE, "rejected", "fires on toys", BOB)
        yield opened


def kinds(registry: FeatureRegistry, *arguments: str | None) -> list[str]:
    """The kinds of the events that history gives."""
    return [change.event.kind for change in history(registry, *arguments)]


def test_records_come_back_as_they_were_given(registry: FeatureRegistry) -> None:
    """Every field of a policy, a guard with its features, and a verification with its figures."""
    with reading(registry.engine) as connection:
        assert all_policies(connection) == [policy_record()]
        assert all_guards(connection) == [guard_record(registry)]
        assert all_guards(connection, sae_name("object"), 0) == [guard_record(registry)]
        assert all_guards(connection, sae_name("object"), 1) == []
        assert all_verifications(connection) == [verification_record()]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (None, ["migration", "content", "policy", "guard", "verification", "review"]),
        ("pistol", ["content", "guard", "review"]),
        ("cat", ["content"]),
        (FEATURE, ["content", "guard", "review"]),
        (f"{sae_name('object')}:1", ["content"]),
        (sae_name("object"), ["content", "guard", "review"]),
        ("no-pistol", ["policy", "guard", "verification"]),
        (digest("b"), ["guard", "verification"]),
        (digest("b")[:15], ["guard", "verification"]),
        ("tiny-clip", ["content", "verification"]),
    ],
)
def test_history_of_one_thing(registry: FeatureRegistry, name: str | None, expected: list[str]) -> None:
    """A concept's has its content, guards and reviews of its features; a guard's starts with its digest."""
    assert kinds(registry, name) == expected


@pytest.mark.parametrize("name", ["pistl", f"{sae_name('object')}x:1", digest("e"), "sha256:bbbb"])
def test_history_of_what_nobody_recorded_is_an_error(registry: FeatureRegistry, name: str) -> None:
    """A mistyped name is no silent "nothing changed"; a digest cut too short names nothing."""
    with pytest.raises(RegistryError, match="nothing is recorded about"):
        history(registry, name)
    with pytest.raises(RegistryError, match="Did you mean 'pistol'"):
        history(registry, "pistl")


def test_history_between_two_times_includes_both(registry: FeatureRegistry) -> None:
    """Second by second: the bounds belong to it, and a name that changed before gives nothing rather than an error."""
    assert kinds(registry, None, BOB.when) == ["verification", "review"]
    assert kinds(registry, None, None, ANN.when) == ["migration", "content", "policy", "guard"]
    assert kinds(registry, None, ANN.when, BOB.when) == kinds(registry)
    assert kinds(registry, None, "2025-03-01T12:00:01Z", "2025-03-02T11:59:59Z") == []
    assert kinds(registry, "cat", BOB.when) == []


def test_guards_on_rejected_features_are_found(registry: FeatureRegistry) -> None:
    """With the feature, who, when and why; gone when the newest review approves; quarantine counts like rejection."""
    record_guard(registry, policy_record(), guard_record(registry, BOB, "d", index=1))
    assert len(recorded_guards(registry)) == 2
    (found,) = recorded_guards(registry, rejected=True)
    assert found.guard.digest == digest("b")
    assert found.verification == verification_record()
    ((used, review),) = found.rejected
    assert (used.feature, used.concept, review.by, review.why) == (FEATURE, "pistol", "bob", "fires on toys")
    record_review(registry, FEATURE, "approved", "checked again", Stamp("ann", "2025-03-03T00:00:00Z"))
    assert recorded_guards(registry, rejected=True) == []
    record_review(registry, FEATURE, "quarantined", "complaint 17", Stamp("ann", "2025-03-04T00:00:00Z"))
    assert [known.guard.digest for known in recorded_guards(registry, rejected=True)] == [digest("b")]


def test_guards_are_found_by_policy_and_by_feature(registry: FeatureRegistry) -> None:
    """And a policy that nobody recorded is an error with the nearest name."""
    other = policy_record(digest=digest("8"), name="no-cat")
    guard = replace(guard_record(registry, BOB, "d", index=1), policy_digest=other.digest)
    record_guard(registry, other, guard)
    assert [known.guard for known in recorded_guards(registry, policy="no-cat")] == [guard]
    assert [known.policy.name for known in recorded_guards(registry, feature=FEATURE)] == ["no-pistol"]
    with pytest.raises(RegistryError, match=r"no policy 'no-pistl' is recorded\. Did you mean 'no-pistol'"):
        recorded_guards(registry, policy="no-pistl")


def test_a_guard_of_a_retrained_sae_is_judged_by_reviews_of_its_own(
    registry: FeatureRegistry, url: str, tmp_path: Path
) -> None:
    """The rejection was of the old weights: the old guard stays rejected, one built on the new ones is not."""
    manifest = write_synthetic_registry(tmp_path / "retrained", Synthetic(seed=8))
    with FeatureRegistry.open(url, manifest=manifest, stamp=BOB) as retrained:
        record_guard(retrained, policy_record(), guard_record(retrained, BOB, "d"))
        assert [known.guard.digest for known in recorded_guards(retrained)] == [digest("b"), digest("d")]
        assert [known.guard.digest for known in recorded_guards(retrained, rejected=True)] == [digest("b")]


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("UPDATE reviews SET verdict = 'approved'", [f"review {FEATURE} ", f"review {FEATURE} "]),
        ("UPDATE reviews SET page = '{}'", [f"review {FEATURE} ", f"review {FEATURE} "]),
        ("DELETE FROM reviews", [f"review {FEATURE} "]),
        ("UPDATE policies SET owner = 'nobody'", ["policy no-pistol ", "policy no-pistol "]),
        ("UPDATE guard_features SET strength = 0.0", [f"guard {digest('b')} ", f"guard {digest('b')} "]),
        ("DELETE FROM guard_features", [f"guard {digest('b')} ", f"guard {digest('b')} "]),
        ("UPDATE verification_runs SET exit_code = 1", [f"verification {digest('b')} "] * 2),
        ("UPDATE verification_runs SET figures = '{}'", [f"verification {digest('b')} "] * 2),
    ],
)
def test_records_changed_past_the_chain_are_found(
    registry: FeatureRegistry, statement: str, expected: list[str]
) -> None:
    """A record has to be the one that its event tells of; untouched, all are."""
    with reading(registry.engine) as connection:
        assert record_problems(connection) == []
    tamper(registry.engine, statement, protected=True)
    with reading(registry.engine) as connection:
        problems = record_problems(connection)
    assert len(problems) == len(expected)
    for problem, beginning in zip(problems, expected, strict=True):
        assert problem.startswith(beginning)


def test_a_payload_that_cannot_be_read_is_an_error_with_the_command_that_tells_more(
    registry: FeatureRegistry,
) -> None:
    """History of a tampered chain ends in a message, not in a traceback."""
    tamper(registry.engine, "UPDATE events SET payload = '{}' WHERE kind = 'guard'")
    with pytest.raises(RegistryError, match=r"payload of event 4 \(guard\) cannot be read: .*registry check"):
        history(registry)


def test_a_database_that_is_read_only_is_known_before_the_work(url: str, registry: FeatureRegistry) -> None:
    """SQLite refuses to write to a file whose header asks for a newer writer; reading goes on."""
    if registry.engine.dialect.name != "sqlite":
        pytest.skip("the header is SQLite's")
    path = Path(str(registry.engine.url.database))
    before = path.read_bytes()
    require_writable(registry)
    registry.engine.dispose()
    data = bytearray(path.read_bytes())
    assert data == before
    data[18] = 3  # "write version": one that no SQLite of today may write
    path.write_bytes(data)
    with FeatureRegistry.open(url) as opened:
        assert opened.concept("pistol")
        with pytest.raises(RegistryError, match="readonly database"):
            require_writable(opened)
