"""Connections to the registry's database: SQLite by default, PostgreSQL for teams.

Errors of the driver become RegistryError with the place and what to do.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError

from saeuron_guard.errors import RegistryError

DATABASE_VARIABLE: Final = "SAEURON_GUARD_DATABASE"

BUILT_FILE: Final = "registry.sqlite"
"""Name of the database that is built from the shipped manifest, and may be deleted at any time."""

BUSY_SECONDS: Final = 60
"""How long a connection waits for another process that is writing; a first build takes a few seconds."""

_WRITES: Final = "saeuron_guard_writes"
_ADVISORY_LOCK: Final = 0x5AE0_0C0D
"""PostgreSQL's lock number for whoever builds or migrates the registry; any number that nobody else uses."""


def sqlite_url(path: Path) -> str:
    """The URL of the SQLite database in ``path``."""
    return URL.create("sqlite", database=str(path)).render_as_string()


def configured_url() -> str | None:
    """The URL that the environment asks for, or None."""
    return os.environ.get(DATABASE_VARIABLE) or None


def engine_for(url: str) -> Engine:
    """An engine for ``url``; nothing is opened yet. Raises RegistryError for a URL that makes no sense."""
    try:
        parsed = make_url(url)
        if parsed.get_backend_name() == "sqlite":
            engine = create_engine(parsed, connect_args={"timeout": BUSY_SECONDS})
            _prepare_sqlite(engine)
        else:
            engine = create_engine(parsed, pool_pre_ping=True)
    except (ArgumentError, NoSuchModuleError, ValueError) as error:
        raise RegistryError(
            f"not a database URL: {_without_password(url)!r} ({error}); write sqlite:////path/to/registry.sqlite or "
            "postgresql+psycopg://user@host/database"
        ) from error
    except ImportError as error:
        raise RegistryError(
            f"{shown(url)}: the database driver is not installed ({error}); "
            'SQLite needs none, PostgreSQL needs psycopg: pip install "psycopg[binary]"'
        ) from error
    return engine


def _without_password(text: str) -> str:
    """``text``, which need not be a URL, without what stands where a URL has its password."""
    return re.sub(r"(://[^/@:]*:)[^/@]*@", r"\1***@", text)


def shown(url: str | URL) -> str:
    """A URL without its password, as it may stand in messages; the path alone for SQLite."""
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite" and parsed.database:
        return parsed.database
    return parsed.render_as_string(hide_password=True)


@contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """A connection for queries: every statement sees the database as last committed."""
    with _clear_errors(engine), engine.connect() as connection:
        yield connection


def exists(engine: Engine) -> bool:
    """Whether there is a database to open: connecting to a SQLite file that is missing would make an empty one."""
    name = engine.url.database
    return engine.dialect.name != "sqlite" or name in (None, "", ":memory:") or Path(str(name)).is_file()


@contextmanager
def migrating(engine: Engine) -> Iterator[Connection]:
    """As ``writing``, for schema changes: SQLite checks foreign keys at the end only.

    To alter a table, SQLite needs it copied, dropped and renamed; in between, its references lead nowhere.
    """
    if engine.dialect.name != "sqlite":
        with writing(engine) as connection:
            yield connection
        return
    with _clear_errors(engine), engine.connect() as connection:
        driver: Any = connection.connection.driver_connection
        driver.execute("PRAGMA foreign_keys = OFF")  # means nothing once a transaction has begun
        try:
            with connection.execution_options(**{_WRITES: True}).begin():
                yield connection
                broken = connection.exec_driver_sql("PRAGMA foreign_key_check").fetchall()
                if broken:
                    raise RegistryError(f"{shown(engine.url)}: rows of {broken[0][0]} would refer to nothing")
        finally:
            driver.execute("PRAGMA foreign_keys = ON")


@contextmanager
def writing(engine: Engine) -> Iterator[Connection]:
    """One transaction that holds the write lock from its start: all of it happens or nothing, one writer at a time."""
    with (
        _clear_errors(engine),
        engine.connect().execution_options(**{_WRITES: True}) as connection,
        connection.begin(),
    ):
        if engine.dialect.name == "postgresql":
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_ADVISORY_LOCK})")
        yield connection


def _prepare_sqlite(engine: Engine) -> None:
    """Make SQLite enforce foreign keys and keep schema changes inside transactions.

    The journal stays SQLite's default, a file that exists during writes only: a write-ahead log would need a writable
    folder even to read, and a registry built into a container image has none.
    """

    def on_connect(connection: Any, _record: object) -> None:
        connection.isolation_level = None  # Python's sqlite3 would commit before CREATE TABLE; we say BEGIN ourselves
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute(f"PRAGMA busy_timeout = {BUSY_SECONDS * 1000}")

    def on_begin(connection: Connection) -> None:
        # A writer that only began to read would fail at its first write if another one were faster.
        writes = connection.get_execution_options().get(_WRITES)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    event.listen(engine, "connect", on_connect)
    event.listen(engine, "begin", on_begin)


@contextmanager
def _clear_errors(engine: Engine) -> Iterator[None]:
    try:
        yield
    except DBAPIError as error:
        where = shown(engine.url)
        cause = str(error.orig).strip()
        if any(sign in cause for sign in ("not a database", "malformed", "no such table", "no such column")):
            advice = "it is damaged or something else: " + (
                "restore it from a copy; or move it away, and the next command builds a new one from the manifest, "
                "without the reviews and records that were in this one only"
                if Path(str(engine.url.database)).name == BUILT_FILE and configured_url() is None
                else f"name another database in {DATABASE_VARIABLE} or --database, or restore this one from a copy"
            )
        else:
            advice = "check that it exists, may be read and written, and accepts connections"
        raise RegistryError(f"{where}: {cause}; {advice}") from error
