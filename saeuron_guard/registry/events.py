"""The chain of events: every change of the registry, each with the digest of the one before.

An event's digest is the SHA-256 of its other fields' canonical JSON, the digest of the event before among them. Whoever
changes one has to change all that follow, and the head (number and digest of the last one) that ``meta`` keeps so that
a cut-off tail is noticed. Whoever can do all of that is found out by a head that was noted down elsewhere.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any, Final

from sqlalchemy import Connection, inspect, select, text

from saeuron_guard.digests import canonical_json, digest_of
from saeuron_guard.errors import RegistryError
from saeuron_guard.registry.records import Event
from saeuron_guard.registry.stamp import Stamp
from saeuron_guard.registry.tables import events, meta

HEAD_KEY: Final = "last_event"
"""Key in ``meta`` of the chain's head: canonical JSON of ``seq`` and ``digest``."""

FIRST: Final = "sha256:" + 64 * "0"
"""What the first event names as the one before."""

_TRIGGERS: Final = {
    "sqlite": ("events_refuse_delete", "events_refuse_replace", "events_refuse_update"),
    "postgresql": ("events_refuse_delete", "events_refuse_truncate", "events_refuse_update"),
}


def append_event(connection: Connection, stamp: Stamp, kind: str, subject: str, payload: Mapping[str, Any]) -> Event:
    """Add an event in the connection's transaction, which must be a writing one: it holds the lock.

    It follows the head that ``meta`` keeps, so that it hides no gap. Raises RegistryError when there is no head to
    follow although there are events.
    """
    seq, previous = _head(connection) or _no_head(connection)
    event = _sealed(Event(seq + 1, stamp.when, stamp.by, kind, subject, canonical_json(payload), previous, ""))
    connection.execute(events.insert(), dataclasses.asdict(event))
    connection.execute(meta.delete().where(meta.c.key == HEAD_KEY))
    head = canonical_json({"seq": event.seq, "digest": event.digest})
    connection.execute(meta.insert(), {"key": HEAD_KEY, "value": head})
    return event


def all_events(connection: Connection) -> list[Event]:
    """Every event, oldest first."""
    rows = connection.execute(select(events).order_by(events.c.seq))
    return [Event(**row._mapping) for row in rows]  # noqa: SLF001 - public in spite of its name


def last_digest(connection: Connection) -> str:
    """The digest of the last event that is there, whatever the head says; FIRST while there is none."""
    query = select(events.c.digest).order_by(events.c.seq.desc()).limit(1)
    return connection.execute(query).scalar() or FIRST


def is_kept(connection: Connection) -> bool:
    """Whether the database is of a revision that has the chain."""
    return inspect(connection).has_table(events.name)


def chain_problems(connection: Connection) -> list[str]:
    """What is wrong with the chain, in words: the first broken event, a cut-off tail, a trigger that is missing."""
    found = all_events(connection)
    problem = _first_broken(found) or _head_problem(found, _head(connection))
    return [*([problem] if problem else []), *_missing_triggers(connection)]


def _first_broken(found: list[Event]) -> str | None:
    seq, previous = 0, FIRST
    for event in found:
        if event.seq != seq + 1:
            return f"event {seq + 1} is missing: event {event.seq} ({event.kind}) follows event {seq}"
        if event.previous != previous:
            return (
                f"event {event.seq} ({event.kind}) does not follow: expected {previous} before it, got {event.previous}"
            )
        expected = _sealed(event).digest
        if event.digest != expected:
            return (
                f"event {event.seq} ({event.kind} {event.subject}) was changed: expected {expected}, got {event.digest}"
            )
        seq, previous = event.seq, event.digest
    return None


def _head_problem(found: list[Event], head: tuple[int, str] | None) -> str | None:
    last = (found[-1].seq, found[-1].digest) if found else None
    if head == last:
        return None
    if head is None:
        return f"the head of the chain of events is missing: the last event is {found[-1].seq} ({found[-1].digest})"
    got = f"event {last[0]} ({last[1]})" if last else "no event"
    return f"the chain of events should end with event {head[0]} ({head[1]}), got {got}: its end was cut off"


def _missing_triggers(connection: Connection) -> list[str]:
    if connection.dialect.name == "sqlite":
        query = "SELECT name FROM sqlite_master WHERE type = 'trigger' AND tbl_name = 'events'"
    else:
        query = "SELECT tgname FROM pg_trigger WHERE tgrelid = 'events'::regclass AND tgenabled <> 'D'"
    there = set(connection.execute(text(query)).scalars())
    expected = _TRIGGERS[connection.dialect.name]
    return [
        f"trigger {name} is missing: the database no longer protects its events"
        for name in expected
        if name not in there
    ]


def _sealed(event: Event) -> Event:
    fields = {name: value for name, value in dataclasses.asdict(event).items() if name != "digest"}
    return dataclasses.replace(event, digest=digest_of(fields))


def _head(connection: Connection) -> tuple[int, str] | None:
    text_of_head = connection.execute(select(meta.c.value).where(meta.c.key == HEAD_KEY)).scalar()
    if text_of_head is None:
        return None
    try:
        head = json.loads(text_of_head)
        return int(head["seq"]), str(head["digest"])
    except (ValueError, KeyError, TypeError):
        return None


def _no_head(connection: Connection) -> tuple[int, str]:
    if connection.execute(select(events.c.seq).limit(1)).first() is not None:
        raise RegistryError(
            "the head of the registry's chain of events is missing, so nothing can be added to it; "
            'see "saeuron-guard registry check" and restore the database from a copy'
        )
    return 0, FIRST
