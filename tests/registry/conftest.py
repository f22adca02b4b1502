"""The databases that the registry's tests run on: SQLite and a real PostgreSQL."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine

from saeuron_guard.registry.database import engine_for, sqlite_url
from tests.registry.postgresql_server import NoPostgresql, PostgresqlServer, find_programs, running_server
from tests.registry.synthetic import write_synthetic_registry


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgresqlServer]:
    """A server for the whole test run. Without PostgreSQL, a person skips its tests; in CI that is a failure."""
    try:
        programs = find_programs()
    except NoPostgresql as error:
        if os.environ.get("CI"):
            pytest.fail(str(error))
        pytest.skip(str(error))
    with running_server(programs) as server:
        yield server


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def new_url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], str]]:
    """Gives the URL of an empty database at each call. Tests that use it, or what follows, run on both databases."""
    if request.param == "sqlite":
        yield lambda: sqlite_url(tmp_path_factory.mktemp("database") / "registry.sqlite")
        return
    server: PostgresqlServer = request.getfixturevalue("postgresql")
    made: list[str] = []

    def new() -> str:
        made.append(server.new_database())
        return made[-1]

    yield new
    for url in made:
        server.drop_database(url)


@pytest.fixture
def url(new_url: Callable[[], str]) -> str:
    """The URL of an empty database of the test's own."""
    return new_url()


@pytest.fixture
def engine(url: str) -> Iterator[Engine]:
    """An engine for that database."""
    engine = engine_for(url)
    yield engine
    engine.dispose()


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The manifest of a synthetic registry, for tests that only read it."""
    return write_synthetic_registry(tmp_path_factory.mktemp("source"))
