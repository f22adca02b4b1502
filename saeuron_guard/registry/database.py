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
from sqlalchemy.exc import ArgumentError, DBAPIError

from saeuron_guard.errors import RegistryError

DATABASE_VARIABLE: Final = "SAEURON_GUARD_DATABASE"

BUILT_FILE: Final = "registry.sqlite"
"""Name of the database that is built beside a manifest; reviews and records that were made in it are only there."""

BUSY_SECONDS: Final = 60
"""How long a connection waits for another process that is writing; a first build takes a few seconds."""

CONNECT_SECONDS: Final = 10
"""How long to wait for a PostgreSQL server to answer, unless the URL or PGCONNECT_TIMEOUT says otherwise."""

_WRITES: Final = "saeuron_guard_writes"
_PATIENCE: Final = "saeuron_guard_patience"
_ADVISORY_LOCK: Final = 0x5AE0_0C0D
"""PostgreSQL's lock number for whoever builds or migrates the registry; any number that nobody else uses."""
_DRIVERS: Final = ("sqlite", "sqlite+pysqlite", "postgresql", "postgresql+psycopg")


def sqlite_url(path: Path) -> str:
    """The URL of the SQLite database in ``path``."""
    return URL.create("sqlite", database=str(path)).render_as_string()


def configured_url() -> str | None:
    """The URL that the environment asks for, or None."""
    return os.environ.get(DATABASE_VARIABLE) or None


def engine_for(url: str, *, patience: float = BUSY_SECONDS) -> Engine:
    """An engine for ``url``; nothing is opened yet. Raises RegistryError for a URL that makes no sense.

    ``patience``: how many seconds a transaction waits for another process that is writing, before it is an error.
    """
    parsed = _parsed(url)
    sqlite = parsed.get_backend_name() == "sqlite"
    arguments: dict[str, Any] = {"timeout": patience} if sqlite else {}
    if not (sqlite or "connect_timeout" in parsed.query or "PGCONNECT_TIMEOUT" in os.environ):
        arguments["connect_timeout"] = CONNECT_SECONDS
    try:
        engine = create_engine(
            parsed, connect_args=arguments, pool_pre_ping=not sqlite, execution_options={_PATIENCE: patience}
        )
    except (ArgumentError, TypeError, ValueError) as error:
        raise _no_url(url, _one_line(str(error))) from error
    except ImportError as error:
        raise RegistryError(
            f"{shown(parsed)}: the database driver is not installed ({_one_line(str(error))}); "
            'SQLite needs none, PostgreSQL needs psycopg: pip install "saeuron-guard[postgres]"'
        ) from error
    (_prepare_sqlite if sqlite else _prepare_postgresql)(engine, patience)
    return engine


def _parsed(url: str) -> URL:
    """The URL in parts, of SQLite or of PostgreSQL with the driver that we know."""
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError) as error:
        raise _no_url(url, "it cannot be taken apart") from error
    if parsed.drivername == "postgresql":  # which driver that means depends on SQLAlchemy's version
        parsed = parsed.set(drivername="postgresql+psycopg")
    if parsed.drivername not in _DRIVERS:
        raise _no_url(url, f"{parsed.drivername!r} is none of {', '.join(_DRIVERS)}")
    if "@" in (parsed.host or ""):  # the rest of the password would be taken for the host's name, and shown
        raise _no_url(url, "in a user's name or password, write %40 for @, %2F for / and %3A for :")
    return parsed


def _no_url(text: str, reason: str) -> RegistryError:
    return RegistryError(
        f"not a database URL: {_without_password(text)!r} ({reason}); write sqlite:////path/to/registry.sqlite or "
        "postgresql+psycopg://user@host/database"
    )


def _without_password(text: str) -> str:
    """``text``, which need not be a URL, without what stands where a URL has its password."""
    text = re.sub(r"(://[^/@:]*:).*@", r"\1***@", text)
    return re.sub(r"([?&](?:ssl)?password=)[^&]*", r"\1***", text)


def without_secrets(url: URL) -> URL:
    """A URL without passwords among its options; the one before the host is hidden when it is rendered."""
    return url.difference_update_query(("password", "sslpassword"))


def shown(url: str | URL) -> str:
    """A URL without its password, as it may stand in messages; the path alone for SQLite."""
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite" and parsed.database:
        return parsed.database
    return without_secrets(parsed).render_as_string(hide_password=True)


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
        yield connection


def _prepare_postgresql(engine: Engine, patience: float) -> None:
    """Make a transaction wait for a limited time, and one that writes hold the lock from its start.

    The limits hold for the transaction only, so that a connection pool between us and the server may hand the
    connection to others.
    """
    milliseconds = max(1, round(patience * 1000))  # 0 would be for ever

    def on_begin(connection: Connection) -> None:
        connection.exec_driver_sql(f"SET LOCAL lock_timeout = {milliseconds}")
        if connection.get_execution_options().get(_WRITES):
            # A writer whose machine lost its power or its network would hold the lock until TCP gave up, after hours.
            connection.exec_driver_sql(f"SET LOCAL idle_in_transaction_session_timeout = {milliseconds}")
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_ADVISORY_LOCK})")

    event.listen(engine, "begin", on_begin)


def _prepare_sqlite(engine: Engine, patience: float) -> None:
    """Make SQLite enforce foreign keys and keep schema changes inside transactions.

    The journal stays SQLite's default, a file that exists during writes only: a write-ahead log would need a writable
    folder even to read, and a registry built into a container image has none.
    """

    def on_connect(connection: Any, _record: object) -> None:
        connection.isolation_level = None  # Python's sqlite3 would commit before CREATE TABLE; we say BEGIN ourselves
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute(f"PRAGMA busy_timeout = {round(patience * 1000)}")

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
        cause = _one_line(str(error.orig))
        raise RegistryError(f"{shown(engine.url)}: {cause}; {_advice(engine, error.orig, cause)}") from error


def _one_line(text: str) -> str:
    """The first line of a driver's message, and PostgreSQL's detail; the rest quotes SQL or lists further attempts."""
    lines = [" ".join(line.split()) for line in text.splitlines() if line.strip()]
    return " ".join(lines[:1] + [line for line in lines[1:] if line.startswith("DETAIL:")])


def _advice(engine: Engine, error: BaseException | None, cause: str) -> str:
    """What to do about an error of the driver's.

    PostgreSQL's state is in every language the same; an error while connecting has none, so its text has to do.
    """
    sign = f"{getattr(error, 'sqlstate', None) or ''} {cause}"
    if re.search(_DAMAGED, sign):
        return "it is damaged or something else: " + (
            "restore it from a copy; or move it away, and the next command builds a new one from the manifest, "
            "without the reviews and records that were in this one only"
            if Path(str(engine.url.database)).name == BUILT_FILE and configured_url() is None
            else f"name another database in {DATABASE_VARIABLE} or --database, or restore this one from a copy"
        )
    for known, advice in _ADVICE:
        if re.search(known, sign):
            return advice.format(
                database=engine.url.database,
                user=engine.url.username or "the role",
                seconds=f"{engine.get_execution_options()[_PATIENCE]:g}",
            )
    return "check that it exists, may be read and written, and accepts connections"


_DAMAGED: Final = "not a database|malformed|no such table|no such column|^42P01|^42703"
"""SQLite's words, and PostgreSQL's states for a missing table and a missing column."""

_ADVICE: Final = (
    (
        "^55P03|database is locked",
        "another process was still writing after {seconds} seconds: try again when it is done, or end it",
    ),
    (
        "^42501|permission denied for",
        "have the database's owner grant it to {user}: SELECT to read, all rights to migrate",
    ),
    ("^40P01|^40001", "it was in the way of another process that was writing: try again"),
    ("readonly database", "it can only be read: change the permissions of the file and its folder, or use a copy"),
    ('database ".*" does not exist', 'create it with "createdb {database}", or correct the URL'),
    ('role ".*" does not exist', 'create it with "createuser {user}", or name another one in the URL'),
    (
        "password authentication failed|no password supplied",
        "give the role's password in ~/.pgpass, in PGPASSWORD or in the URL",
    ),
    (
        "No such file or directory|Connection refused|timeout expired|could not translate|failed to resolve",
        "start the PostgreSQL server there, or correct the URL's host and port",
    ),
)
"""What in PostgreSQL's state or in either database's words calls for which advice."""
