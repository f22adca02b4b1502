"""What users read when the database does not do as they wish: one clear line, no password, exit code 3."""

from __future__ import annotations

import builtins
import contextlib
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from sqlalchemy.engine import make_url

from saeuron_guard.cli.main import program
from saeuron_guard.errors import RegistryError
from saeuron_guard.registry.database import engine_for, reading, shown, writing
from saeuron_guard.registry.migrate import migrate_command
from saeuron_guard.registry.store import FeatureRegistry
from tests.registry.postgresql_server import PostgresqlServer

ROLE = "with_password"
PASSWORD = "secretpw"  # noqa: S105 - guards nothing


@pytest.fixture(scope="module")
def team(postgresql: PostgresqlServer, source: Path) -> str:
    """The name of a database with a registry, and a role that may connect with its password and do nothing else."""
    url = postgresql.new_database()
    FeatureRegistry.built(url, manifest=source).close()
    postgresql.execute(f"CREATE ROLE {ROLE} LOGIN PASSWORD '{PASSWORD}'")
    return str(make_url(url).database)


def complaint(url: str, *command: str) -> str:
    """The one line that a registry command prints about a database; never with the password in it."""
    result = CliRunner().invoke(program, ["registry", *(command or ("list",)), "--database", url])
    assert result.exit_code == 3
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    assert PASSWORD not in line
    return line


def test_what_cannot_be_reached_is_named_with_what_helps(postgresql: PostgresqlServer, team: str) -> None:
    """A database, a role, a server that is not there; the database, the role and the server that are there answer."""
    missing = complaint(postgresql.url("nowhere"))
    assert 'database "nowhere" does not exist; create it with "createdb nowhere", or correct the URL' in missing
    stranger = complaint(postgresql.url(team, "stranger"))
    assert 'role "stranger" does not exist; create it with "createuser stranger"' in stranger
    stopped = complaint(f"postgresql+psycopg://{ROLE}:{PASSWORD}@/{team}?host=/tmp/no-server-here")
    assert f"{ROLE}:***@/{team}" in stopped
    assert "No such file or directory; start the PostgreSQL server there, or correct the URL's host" in stopped
    with FeatureRegistry.open(postgresql.url(team)) as registry:
        assert registry.concept("cat")


@pytest.mark.parametrize("wrong", ["{role}:wrong{password}@", "{role}@"])
def test_a_wrong_or_missing_password_is_told(postgresql: PostgresqlServer, team: str, wrong: str) -> None:
    """The line says where to put it and does not repeat it; with the right one, the server lets the role in."""
    url = postgresql.url(team, ROLE)
    bad = url.replace(f"{ROLE}@", wrong.format(role=ROLE, password=PASSWORD))
    assert "give the role's password in ~/.pgpass, in PGPASSWORD or in the URL" in complaint(bad)
    right = url.replace(f"{ROLE}@", f"{ROLE}:{PASSWORD}@")
    assert "permission denied" in complaint(right)
    assert "permission denied" in complaint(postgresql.url(team, ROLE, password=PASSWORD))


def test_a_missing_permission_is_told(postgresql: PostgresqlServer, team: str) -> None:
    """Reading needs SELECT and nothing more; making the tables needs more."""
    url = postgresql.url(team, ROLE, password=PASSWORD)
    assert f"grant it to {ROLE}: SELECT to read, all rights to migrate" in complaint(url)
    postgresql.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {ROLE}", team)
    result = CliRunner().invoke(program, ["registry", "list", "--database", url])
    assert result.exit_code == 0, result.stderr
    assert "pistol" in result.stdout
    refused = complaint(url, "migrate")  # the shipped manifest is another one
    assert "permission denied" in refused
    assert f"grant it to {ROLE}" in refused
    fresh = str(make_url(postgresql.new_database()).database)
    postgresql.execute("REVOKE CREATE ON SCHEMA public FROM public", fresh)
    assert "permission denied for schema public" in complaint(postgresql.url(fresh, ROLE, password=PASSWORD), "migrate")


def test_a_server_that_is_stopped_meanwhile_is_told(postgresql: PostgresqlServer, team: str) -> None:
    """A connection that is cut inside a transaction is an error of ours; the next transaction connects anew."""
    engine = engine_for(postgresql.url(team))
    with pytest.raises(RegistryError, match="terminating connection"), writing(engine) as connection:  # noqa: PT012 - the failure is the last line
        number = connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one()
        postgresql.execute(f"SELECT pg_terminate_backend({number})")
        connection.exec_driver_sql("SELECT 1")
    with writing(engine) as connection:
        assert connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one() != number
    engine.dispose()


def test_limits_hold_inside_our_transactions_only(postgresql: PostgresqlServer) -> None:
    """Readers and writers wait for a limited time; a writer that fell silent is cut off; nobody else is touched."""
    engine = engine_for(postgresql.new_database(), patience=2.5)
    question = "SELECT current_setting('lock_timeout'), current_setting('idle_in_transaction_session_timeout')"
    with reading(engine) as connection:
        assert tuple(connection.exec_driver_sql(question).one()) == ("2500ms", "0")
    with writing(engine) as connection:
        assert tuple(connection.exec_driver_sql(question).one()) == ("2500ms", "2500ms")
    with contextlib.closing(engine.raw_connection()) as raw:
        cursor = raw.cursor()
        cursor.execute(question)
        assert cursor.fetchone() == ("0", "0")
    engine.dispose()


@pytest.mark.parametrize(
    ("url", "shows"),
    [
        ("postgresql://u:{password}@h/x", "postgresql+psycopg://u:***@h/x"),
        ("postgresql+psycopg://u@h/x?password={password}", "postgresql+psycopg://u@h/x"),
        ("postgresql://h/x?user=u&password={password}&sslpassword={password}", "postgresql+psycopg://h/x?user=u"),
    ],
)
def test_a_password_is_never_shown(url: str, shows: str) -> None:
    """Neither that before the host nor one among the options: not as a place, not in the command that helps."""
    engine = engine_for(url.format(password=PASSWORD))
    assert shown(engine.url) == shows
    assert migrate_command(engine.url).endswith(f"--database {shows}")
    assert engine.url.password == PASSWORD or engine.url.query["password"] == PASSWORD


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("postgresql://u:be@{password}@h/x", "write %40 for @, %2F for / and %3A for :"),
        ("postgresql://u:be@re:{password}@h/x", "cannot be taken apart"),
        ("postgresql://u:{password}@h/x?port=many", "non-integer port"),
        ("mysql://u:{password}@h/x", "'mysql' is none of sqlite, "),
        ("postgresql+asyncpg://u:be/{password}@h/x", "'postgresql\\+asyncpg' is none of sqlite, "),
        ("http://u@h/x?password={password}", "'http' is none of sqlite, "),
    ],
)
def test_what_is_no_database_url_of_ours_is_told_without_its_password(url: str, reason: str) -> None:
    """A password that was not escaped, an option that makes no sense, a database that we do not know."""
    with pytest.raises(RegistryError, match=rf"not a database URL: .*{reason}.*write sqlite:") as caught:
        engine_for(url.format(password=PASSWORD))
    assert PASSWORD not in str(caught.value)


def test_a_missing_driver_is_told_with_the_extra_that_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without psycopg, PostgreSQL is refused with the command that installs it; SQLite needs nothing."""
    real = builtins.__import__

    def without_psycopg(name: str, *arguments: Any, **more: Any) -> Any:
        if name.partition(".")[0] == "psycopg":
            raise ImportError("No module named 'psycopg'")
        return real(name, *arguments, **more)

    monkeypatch.setattr(builtins, "__import__", without_psycopg)
    with pytest.raises(RegistryError, match=r'driver is not installed .*: pip install "saeuron-guard\[postgres\]"'):
        engine_for(f"postgresql://u:{PASSWORD}@h/x")
    assert engine_for("sqlite:////tmp/x.sqlite").dialect.name == "sqlite"
