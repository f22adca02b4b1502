"""Every migration, down and up again, with rows in every table; later revisions are covered as they come.

What a table is filled with comes from a synthetic registry, and where that leaves a table empty, from its columns.
"""

from __future__ import annotations

import datetime as dt
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import Script, ScriptDirectory
from sqlalchemy import JSON, CheckConstraint, Column, Connection, Engine, MetaData, Table, insert, select
from sqlalchemy.exc import DataError, IntegrityError

from saeuron_guard.registry import tables
from saeuron_guard.registry.build import bring_up_to_date
from saeuron_guard.registry.database import migrating, reading, writing
from saeuron_guard.registry.events import HEAD_KEY
from saeuron_guard.registry.migrate import configuration, current_revision, downgrade
from tests.registry.processes import COUNTER

Rows = Counter[str]
VERSIONS = "alembic_version"

VALUES: dict[type, object] = {
    str: "x",
    int: 1,
    float: 0.5,
    bool: True,
    bytes: b"x",
    dict: {"x": 1},
    dt.datetime: dt.datetime(2024, 2, 29, 12, 30, tzinfo=dt.UTC),
    dt.date: dt.date(2024, 2, 29),
}


def fill_empty_tables(connection: Connection) -> None:
    """Give every table that has no row one, with values that its columns, keys and checks allow."""
    for table in tables.metadata.sorted_tables:
        if connection.execute(select(table).limit(1)).first() is None:
            connection.execute(insert(table).values(invented_row(connection, table)))


def invented_row(connection: Connection, table: Table) -> dict[str, object]:
    """A value for each column but those that the database fills itself."""
    return {
        column.name: invented_value(connection, column)
        for column in table.columns
        if not (column is table.autoincrement_column or column.server_default is not None)
    }


def invented_value(connection: Connection, column: Column[Any]) -> object:
    """An existing key for a reference, the first word that a check allows for a text, else one value for each type."""
    for key in column.foreign_keys:
        return connection.execute(select(key.column).limit(1)).scalar_one()
    if isinstance(column.type, JSON):
        return VALUES[dict]
    kind = column.type.python_type
    checks = [c for c in column.table.constraints if isinstance(c, CheckConstraint)]  # type: ignore[union-attr]
    texts = [str(check.sqltext) for check in checks if re.search(rf"\b{column.name}\b", str(check.sqltext))]
    words = [word for text in texts for word in re.findall(r"'([^']*)'", text)]
    return words[0] if kind is str and words else VALUES[kind]


def reflected(connection: Connection) -> dict[str, Table]:
    """The tables that the database has at the moment, but for Alembic's own."""
    found = MetaData()
    found.reflect(connection)
    return {name: table for name, table in found.tables.items() if name != VERSIONS}


def rows_of(connection: Connection, table: Table) -> list[Mapping[str, object]]:
    """The rows of a table, but for the head of the chain of events: each step moves it."""
    rows = connection.execute(select(table)).mappings()
    return [row for row in rows if not (table.name == tables.meta.name and row["key"] == HEAD_KEY)]


def text_of(row: Mapping[str, object], columns: set[str]) -> str:
    """A row as text, so that rows with JSON in them can be counted."""
    return json.dumps({name: row[name] for name in columns}, sort_keys=True, default=str)


def kept_by_step(connection: Connection, target: str, *, down: bool) -> None:
    """Migrate one step; rows in tables of both sides survive in the columns of both sides, where the schema allows."""
    before = {
        name: (set(table.columns.keys()), [dict(row) for row in rows_of(connection, table)])
        for name, table in reflected(connection).items()
    }
    (command.downgrade if down else command.upgrade)(configuration(connection), target)
    assert current_revision(connection) == (None if target == "base" else target)
    after = reflected(connection)
    for name in before.keys() & after.keys():
        table, (columns, rows) = after[name], before[name]
        shared = columns & set(table.columns.keys())
        left = Counter(text_of(row, shared) for row in rows_of(connection, table))
        for row in rows:
            text = text_of(row, shared)
            if left[text]:
                left[text] -= 1
            else:
                assert refused(connection, table, {key: row[key] for key in shared}), f"{name} lost {text}"
        if not down and name != tables.events.name:  # a step adds an event of itself
            assert left.total() == 0, f"{name} has rows from nowhere"


def refused(connection: Connection, table: Table, row: Mapping[str, object]) -> bool:
    """Whether the schema has no place for a row."""
    try:
        with connection.begin_nested() as attempt:
            connection.execute(insert(table).values(row))
            # SQLite's foreign keys rest during a migration, so they are asked about.
            sqlite = connection.dialect.name == "sqlite"
            broken = sqlite and connection.exec_driver_sql(f"PRAGMA foreign_key_check({table.name})").first()
            attempt.rollback()
    except (IntegrityError, DataError):
        return True
    return bool(broken)


def steps() -> Iterator[tuple[str, str]]:
    """Each revision, newest first, with the one below it."""
    script: Script
    for script in ScriptDirectory.from_config(configuration()).walk_revisions():
        assert script.down_revision is None or isinstance(script.down_revision, str), "two lines of revisions"
        yield script.revision, script.down_revision or "base"


@pytest.fixture
def filled(engine: Engine, source: Path) -> Engine:
    """A database of the newest revision with rows in every table."""
    bring_up_to_date(engine, source)
    with writing(engine) as connection:
        fill_empty_tables(connection)
        for table in tables.metadata.sorted_tables:
            assert connection.execute(select(table).limit(1)).first() is not None
    return engine


def test_each_revision_goes_down_and_up_with_rows(filled: Engine, source: Path) -> None:
    """One step down, up and down again, from the newest revision to none; then all the way up."""
    for revision, below in steps():
        for target, down in ((below, True), (revision, False), (below, True)):
            with migrating(filled) as connection:
                kept_by_step(connection, target, down=down)
    with reading(filled) as connection:
        assert reflected(connection) == {}
    for revision, _ in reversed(list(steps())):
        with migrating(filled) as connection:
            kept_by_step(connection, revision, down=False)
    with reading(filled) as connection:
        options = {"compare_type": True, "compare_server_default": True}
        assert compare_metadata(MigrationContext.configure(connection, opts=options), tables.metadata) == []
    assert bring_up_to_date(filled, source)


def test_a_step_that_loses_rows_is_noticed(filled: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Control: a step that deletes a row which its schema would take fails the check above."""

    def careless(*_: object) -> None:
        connection.execute(tables.meta.delete().where(tables.meta.c.key == COUNTER))

    monkeypatch.setattr(command, "upgrade", careless)
    with pytest.raises(AssertionError, match=f"meta lost .*{COUNTER}"), migrating(filled) as connection:  # noqa: PT012 - the failure is the last line
        connection.execute(insert(tables.meta).values(key=COUNTER, value="0"))
        kept_by_step(connection, tables.REVISION, down=False)


def test_a_step_may_drop_what_its_schema_refuses(filled: Engine) -> None:
    """A row that breaks a check, a key or a reference has no place; one that breaks nothing has one."""
    with writing(filled) as connection:
        table = reflected(connection)["prompt_sets"]
        row = dict(connection.execute(select(table).limit(1)).mappings().one())
        fine = row | {"id": 999, "name": "another"}
        assert not refused(connection, table, fine)
        for change in ({"role": "unheard-of"}, {"name": row["name"]}, {"model_id": 999}, {"digest": None}):
            assert refused(connection, table, fine | change)


def test_one_step_down_and_all_the_way_are_the_same(filled: Engine) -> None:
    """``downgrade`` to base goes through the same steps in one transaction."""
    downgrade(filled, "base")
    with reading(filled) as connection:
        assert current_revision(connection) is None
        assert reflected(connection) == {}
