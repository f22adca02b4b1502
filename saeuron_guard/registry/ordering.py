"""The one order of names: by code points, as SQLite and Python have it, on every database.

PostgreSQL sorts text as its server's language does, which differs from machine to machine.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Text
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement


class by_code_points(FunctionElement[str]):  # noqa: N801 - stands in queries like SQLAlchemy's own functions
    """``ORDER BY`` this instead of a text column."""

    name = "by_code_points"
    type = Text()
    inherit_cache = True


@compiles(by_code_points)
def _plain(element: by_code_points, compiler: SQLCompiler, **options: Any) -> str:
    return compiler.process(element.clauses, **options)


@compiles(by_code_points, "postgresql")
def _collated(element: by_code_points, compiler: SQLCompiler, **options: Any) -> str:
    return f'{compiler.process(element.clauses, **options)} COLLATE "C"'
