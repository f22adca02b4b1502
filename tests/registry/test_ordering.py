"""Names come in one order from every database, whatever language its server speaks."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from sqlalchemy import Engine, String, Text, select
from sqlalchemy import text as sql
from sqlalchemy.dialects import postgresql, sqlite

import saeuron_guard.registry
from saeuron_guard.registry import tables
from saeuron_guard.registry.database import reading, writing
from saeuron_guard.registry.ordering import by_code_points

SOURCES = sorted(Path(saeuron_guard.registry.__path__[0]).glob("*.py"))


def test_postgresql_is_told_the_collation() -> None:
    """It sorts by code points when asked to, and SQLite does so by itself."""
    query = select(tables.concepts.c.name).order_by(by_code_points(tables.concepts.c.name))
    assert str(query.compile(dialect=postgresql.dialect())).endswith('ORDER BY concepts.name COLLATE "C"')
    assert str(query.compile(dialect=sqlite.dialect())).endswith("ORDER BY concepts.name")


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_no_query_sorts_text_by_the_servers_language(source: Path) -> None:
    """Every text column in an ``order_by`` of the registry stands in ``by_code_points``."""
    for call in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr == "order_by":
            for argument in call.args:
                column = ast.unparse(argument)
                if ".c." in column and not column.startswith("by_code_points("):
                    table, _, name = column.removesuffix(".desc()").partition(".c.")
                    kind = tables.metadata.tables[table].c[name].type
                    assert not isinstance(kind, String | Text), f"{source.name}: {column}"


def test_both_databases_sort_alike(engine: Engine) -> None:
    """Capitals first, as Python sorts: also on a server that would put them beside small letters."""
    names = ["b", "A", "a", "B", "ä", "Z", "_", "-"]
    with writing(engine) as connection:
        connection.execute(sql("CREATE TABLE words (name TEXT)"))
        for name in names:
            connection.execute(sql("INSERT INTO words VALUES (:name)"), {"name": name})
    words = sql("SELECT name FROM words").columns(name=Text()).subquery()
    with reading(engine) as connection:
        found = connection.execute(select(words.c.name).order_by(by_code_points(words.c.name))).scalars().all()
    assert list(found) == sorted(names)
