"""The chain of events: nobody changes it unnoticed, and every change of the registry is in it."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.engine import make_url

from saeuron_guard.digests import canonical_json, digest_of
from saeuron_guard.errors import RegistryError
from saeuron_guard.registry.database import engine_for, reading, writing
from saeuron_guard.registry.events import FIRST, all_events, append_event, chain_problems
from saeuron_guard.registry.recording import record_guard, record_review, record_verification
from saeuron_guard.registry.records import Event
from saeuron_guard.registry.store import FeatureRegistry
from tests.registry.synthetic import write_synthetic_registry
from tests.registry.trail import (
    ANN,
    BOB,
    FEATURE,
    guard_record,
    policy_record,
    tamper,
    verification_record,
)

SPAWN = multiprocessing.get_context("spawn")


@pytest.fixture
def registry(url: str, tmp_path: Path) -> Iterator[FeatureRegistry]:
    """A registry in which ann rejected a feature: three events."""
    manifest = write_synthetic_registry(tmp_path / "source")
    with FeatureRegistry.open(url, manifest=manifest, stamp=ANN) as opened:
        record_review(opened, FEATURE, "rejected", "fires on toys", ANN)
        yield opened


def events_of(registry: FeatureRegistry) -> list[Event]:
    """All events."""
    with reading(registry.engine) as connection:
        return all_events(connection)


def problems_of(registry: FeatureRegistry) -> list[str]:
    """What is wrong with the chain."""
    with reading(registry.engine) as connection:
        return chain_problems(connection)


def test_each_event_is_sealed_over_the_one_before(registry: FeatureRegistry) -> None:
    """The digest is the SHA-256 of the canonical JSON of all other fields, computed here by hand."""
    events = events_of(registry)
    assert [(event.seq, event.kind, event.by, event.when) for event in events] == [
        (1, "migration", *dataclasses.astuple(ANN)),
        (2, "content", *dataclasses.astuple(ANN)),
        (3, "review", *dataclasses.astuple(ANN)),
    ]
    previous = FIRST
    for event in events:
        fields = dataclasses.asdict(event)
        assert fields.pop("digest") == digest_of(fields)
        assert event.previous == previous
        assert canonical_json(json.loads(event.payload)) == event.payload
        previous = event.digest
    assert problems_of(registry) == []


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE events SET payload = '{}' WHERE seq = 2",
        "DELETE FROM events WHERE seq = 3",
        "DELETE FROM events",
    ],
)
def test_the_database_refuses_changes_of_events(registry: FeatureRegistry, statement: str) -> None:
    """Triggers refuse them; another event is taken."""
    with pytest.raises(RegistryError, match="events are append-only"):
        tamper(registry.engine, statement, protected=True)
    with writing(registry.engine) as connection:
        append_event(connection, BOB, "review", "x", {})
    assert problems_of(registry) == []


def test_sqlite_refuses_to_replace_an_event(registry: FeatureRegistry) -> None:
    """INSERT OR REPLACE deletes without a DELETE trigger, so it has one of its own."""
    if registry.engine.dialect.name != "sqlite":
        pytest.skip("only SQLite has INSERT OR REPLACE")
    columns = 'seq, "when", "by", kind, subject, payload, previous, digest'
    replace = f"INSERT OR REPLACE INTO events ({columns}) SELECT {columns} FROM events WHERE seq = 2"  # noqa: S608
    with pytest.raises(RegistryError, match="events are append-only"):
        tamper(registry.engine, replace, protected=True)


def test_a_changed_payload_is_found(registry: FeatureRegistry) -> None:
    """The first broken event is named, with both digests; the chain was whole before, so that is what is found."""
    assert problems_of(registry) == []
    changed = events_of(registry)[1]
    tamper(registry.engine, "UPDATE events SET payload = '{}' WHERE seq = 2")
    fields = {**dataclasses.asdict(changed), "payload": "{}"}
    del fields["digest"]
    first, *others = problems_of(registry)
    assert first == (
        f"event 2 (content {changed.subject}) was changed: expected {digest_of(fields)}, got {changed.digest}"
    )
    assert len(others) == 3
    assert all(other.startswith("trigger events_refuse_") for other in others)


def test_a_change_with_its_own_digest_set_right_is_found_at_the_next(registry: FeatureRegistry) -> None:
    """Whoever seals a changed event anew breaks the link of the one that follows."""
    changed = dataclasses.replace(events_of(registry)[1], payload="{}")
    fields = dataclasses.asdict(changed)
    del fields["digest"]
    tamper(registry.engine, f"UPDATE events SET payload = '{{}}', digest = '{digest_of(fields)}' WHERE seq = 2")  # noqa: S608
    assert problems_of(registry)[0].startswith(f"event 3 (review) does not follow: expected {digest_of(fields)}")


def test_a_gap_and_a_cut_tail_are_found(registry: FeatureRegistry) -> None:
    """An event taken out of the middle, then the end taken off, which leaves a chain that is whole in itself."""
    tamper(registry.engine, "DELETE FROM events WHERE seq = 2")
    assert problems_of(registry)[0] == "event 2 is missing: event 3 (review) follows event 1"
    last = events_of(registry)[-1]
    tamper(registry.engine, "DELETE FROM events WHERE seq > 1", protected=True)
    assert problems_of(registry)[0].startswith(
        f"the chain of events should end with event 3 ({last.digest}), got event 1"
    )


def test_a_new_event_does_not_hide_a_cut_tail(registry: FeatureRegistry) -> None:
    """It follows the head that was noted down, not the event that happens to be last."""
    tamper(registry.engine, "DELETE FROM events WHERE seq = 3")
    with writing(registry.engine) as connection:
        append_event(connection, BOB, "review", "x", {})
    assert problems_of(registry)[0] == "event 3 is missing: event 4 (review) follows event 2"


def test_without_a_head_nothing_is_added(registry: FeatureRegistry) -> None:
    """A chain whose end nobody knows is reported and not continued."""
    tamper(registry.engine, "DELETE FROM meta WHERE key = 'last_event'", protected=True)
    assert problems_of(registry)[0].startswith("the head of the chain of events is missing: the last event is 3")
    with pytest.raises(RegistryError, match="chain of events is missing"):
        record_review(registry, FEATURE, "approved", "looks fine", BOB)


def test_a_change_that_fails_leaves_no_event(registry: FeatureRegistry) -> None:
    """Record and event are one transaction: both there or neither."""
    with pytest.raises(ZeroDivisionError), writing(registry.engine) as connection:  # noqa: PT012 - both have to be inside
        append_event(connection, BOB, "review", "x", {})
        raise ZeroDivisionError
    assert len(events_of(registry)) == 3
    with pytest.raises(RegistryError, match="recorded already"):
        record_review(registry, FEATURE, "rejected", "fires on toys", ANN)
    assert len(events_of(registry)) == 3


def test_every_kind_of_change_has_its_event(registry: FeatureRegistry) -> None:
    """Policies, guards and verifications too, each once: what was recorded before stands."""
    policy, guard = policy_record(), guard_record(registry)
    assert record_guard(registry, policy, guard)
    assert not record_guard(registry, policy_record(BOB), guard_record(registry, BOB))
    record_verification(registry, policy, guard, verification_record())
    record_verification(registry, policy, guard, verification_record(verdict="fail"))
    kinds = [event.kind for event in events_of(registry)[3:]]
    assert kinds == ["policy", "guard", "verification", "verification"]
    assert [event.by for event in events_of(registry)[3:]] == ["ann", "ann", "bob", "bob"]
    assert problems_of(registry) == []


def test_a_changed_manifest_is_an_event_that_says_what_changed(registry: FeatureRegistry, url: str) -> None:
    """By kind and name, compared with the content before; a rebuild without a change says nothing of the sort."""
    manifest = registry.manifest_path
    changed = manifest.read_text(encoding="utf-8").replace("title: Cat", "title: Kitten")
    manifest.write_text(changed + "\n# reviewed\n", encoding="utf-8")
    FeatureRegistry.open(url, manifest=manifest, stamp=BOB).close()
    manifest.write_text(changed, encoding="utf-8")
    FeatureRegistry.open(url, manifest=manifest, stamp=BOB).close()
    first, *_, second, third = events_of(registry)[1:]
    assert json.loads(first.payload)["added"]["concepts"] == ["Neon", "Noto", "cat", "pistol"]
    assert json.loads(first.payload)["added"]["calibrations"][0] == "tiny/Neon"
    assert json.loads(second.payload)["changed"] == {"concepts": ["cat"]}
    assert (json.loads(second.payload)["added"], json.loads(second.payload)["removed"]) == ({}, {})
    assert json.loads(third.payload)["changed"] == {}
    assert third.by == "bob"


def write_events(url: str, name: str, gate: object) -> None:
    """Body of a process: wait for the other, then add ten events, each in its own transaction."""
    engine = engine_for(url)
    gate.wait()  # type: ignore[attr-defined]
    for number in range(10):
        with writing(engine) as connection:
            append_event(connection, ANN, "review", name, {"number": number})
    engine.dispose()


def test_two_writers_at_once_make_one_chain(registry: FeatureRegistry, url: str) -> None:
    """Two processes write as fast as they can: no event is lost and no link broken."""
    gate = SPAWN.Barrier(2)
    processes = [SPAWN.Process(target=write_events, args=(url, name, gate)) for name in ("one", "two")]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    subjects = [event.subject for event in events_of(registry)[3:]]
    assert sorted(subjects) == ["one"] * 10 + ["two"] * 10
    assert problems_of(registry) == []
    with reading(registry.engine) as connection:
        assert connection.execute(text("SELECT count(*) FROM meta WHERE key = 'last_event'")).scalar() == 1


def test_on_postgresql_a_role_may_record_without_being_able_to_change(registry: FeatureRegistry, url: str) -> None:
    """With the rights that README.md grants: a review is added to the chain; rows that are there stay as they are."""
    if registry.engine.dialect.name != "postgresql":
        pytest.skip("SQLite has no roles")
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    (grants,) = re.findall(r"^```sql\n(.*?)^```$", readme, flags=re.MULTILINE | re.DOTALL)
    with writing(registry.engine) as connection:
        connection.execute(text("CREATE ROLE recorders LOGIN"))
        connection.execute(text(grants))
    try:
        role = make_url(url).set(username="recorders").render_as_string(hide_password=False)
        with FeatureRegistry.open(role) as recording:
            record_review(recording, FEATURE, "approved", "checked again", BOB)
            record_verification(recording, policy_record(), guard_record(recording), verification_record())
            for statement in ("UPDATE reviews SET verdict = 'approved'", "DELETE FROM guards", "DELETE FROM events"):
                with pytest.raises(RegistryError, match="permission denied"):
                    tamper(recording.engine, statement, protected=True)
        assert problems_of(registry) == []
        assert registry.reviews()[FEATURE].by == "bob"
    finally:
        with writing(registry.engine) as connection:
            connection.execute(text("DROP OWNED BY recorders"))
            connection.execute(text("DROP ROLE recorders"))
