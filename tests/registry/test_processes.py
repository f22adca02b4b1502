"""Several processes on one database, and processes that die: nothing is lost, nothing is half there."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import Engine, insert, inspect, select, update
from sqlalchemy.engine import make_url

from saeuron_guard.errors import RegistryError
from saeuron_guard.registry import tables
from saeuron_guard.registry.build import bring_up_to_date
from saeuron_guard.registry.database import engine_for, reading, writing
from saeuron_guard.registry.migrate import current_revision
from saeuron_guard.registry.store import FeatureRegistry
from tests.registry.postgresql_server import PostgresqlServer
from tests.registry.processes import (
    COUNTER,
    at_once,
    count_up,
    downgrade_and_pause,
    fill_and_pause,
    hold_a_change,
    open_and_count,
    paused,
)
from tests.registry.synthetic import write_synthetic_registry

TIMES = 40


def title(url: str) -> str:
    """What the cat is called now."""
    with FeatureRegistry.open(url) as registry:
        return registry.concept("cat").title


def counter(engine: Engine) -> str:
    """The counter's value."""
    with reading(engine) as connection:
        return str(connection.execute(select(tables.meta.c.value).where(tables.meta.c.key == COUNTER)).scalar_one())


def renamed(folder: Path) -> Path:
    """The manifest of the same registry, but for the cat's title."""
    manifest = write_synthetic_registry(folder)
    text = manifest.read_text(encoding="utf-8")
    assert "title: Cat" in text
    manifest.write_text(text.replace("title: Cat", "title: Kitten"), encoding="utf-8")
    return manifest


def test_two_writers_lose_nothing(url: str, engine: Engine, source: Path) -> None:
    """What each of two processes reads and then writes builds on all that the other has written before."""
    bring_up_to_date(engine, source)
    with writing(engine) as connection:
        before = len(connection.execute(select(tables.meta)).all())
        connection.execute(insert(tables.meta).values(key=COUNTER, value="0"))
    assert at_once(count_up, url, TIMES) == [TIMES, TIMES]
    assert counter(engine) == str(2 * TIMES)
    with reading(engine) as connection:
        assert len(connection.execute(select(tables.meta)).all()) == before + 1 + 2 * TIMES


def test_without_the_lock_a_write_would_be_lost(postgresql: PostgresqlServer, source: Path) -> None:
    """Control: two plain transactions of PostgreSQL's read the same number and write the same successor."""
    engine = engine_for(postgresql.new_database())
    bring_up_to_date(engine, source)
    with writing(engine) as connection:
        connection.execute(insert(tables.meta).values(key=COUNTER, value="0"))
    with engine.connect() as first, engine.connect() as second:
        for connection in (first, second):
            found = connection.execute(select(tables.meta.c.value).where(tables.meta.c.key == COUNTER)).scalar_one()
            assert found == "0"
        for connection in (first, second):
            connection.execute(
                update(tables.meta).where(tables.meta.c.key == COUNTER).values(value=str(int(found) + 1))
            )
            connection.commit()
    assert counter(engine) == "1"
    engine.dispose()


def test_processes_that_build_at_once_all_succeed(new_url: Callable[[], str], tmp_path: Path) -> None:
    """Three first openings at the same moment: one builds, the others wait, all read the same."""
    manifest = write_synthetic_registry(tmp_path)
    url = new_url()
    assert at_once(open_and_count, url, manifest, count=3) == [24, 24, 24]
    engine = engine_for(url)
    assert bring_up_to_date(engine, manifest) is False
    engine.dispose()


def test_reading_goes_on_while_another_process_writes(url: str, engine: Engine, source: Path) -> None:
    """Readers see what was last committed; a writer that loses patience says so, one that waits gets its turn."""
    bring_up_to_date(engine, source)
    with paused(hold_a_change, url) as other:
        begin = time.monotonic()
        assert title(url) == "Cat"
        impatient = engine_for(url, patience=0.25)
        with (
            pytest.raises(RegistryError, match=r"still writing after 0\.25 seconds: try again when it is done"),
            writing(impatient),
        ):
            pytest.fail("the lock was given away twice")
        with reading(impatient) as connection:
            assert connection.execute(select(tables.models.c.name)).scalar() == "tiny"
        assert time.monotonic() - begin < 10
        other.go_on()
    with writing(impatient) as connection:
        assert title(url) == "Tiger"
        connection.execute(update(tables.concepts).where(tables.concepts.c.name == "cat").values(title="Lynx"))
    impatient.dispose()
    assert title(url) == "Lynx"


def test_a_killed_first_build_leaves_an_empty_database(url: str, source: Path) -> None:
    """Nothing can be read from it, and the next build makes all of it."""
    with paused(fill_and_pause, url, source) as other:
        spilled(url)
        other.kill()
    with pytest.raises(RegistryError, match="holds no registry"):
        FeatureRegistry.open(url)
    with FeatureRegistry.built(url, manifest=source) as registry:
        assert registry.concept("cat").title == "Cat"
        assert len(registry.scores("tiny.objects.paper", "cat")) == 3 * 8


def test_a_killed_rebuild_leaves_the_old_content(url: str, engine: Engine, source: Path, tmp_path: Path) -> None:
    """All of the old registry is there, whole; a rebuild that is left in peace replaces it."""
    bring_up_to_date(engine, source)
    engine.dispose()
    manifest = renamed(tmp_path)
    with paused(fill_and_pause, url, manifest) as other:
        spilled(url)
        other.kill()
    with FeatureRegistry.built(url, manifest=source) as registry:  # it holds that manifest, so nothing is built
        assert registry.damage() == []
        assert registry.concept("cat").title == "Cat"
        assert len(registry.scores("tiny.objects.paper", "cat")) == 3 * 8
    with paused(fill_and_pause, url, manifest) as other:
        other.go_on()
    assert title(url) == "Kitten"


def spilled(url: str) -> None:
    """On SQLite, part of the transaction is in the file already, and what it replaced is in the journal."""
    database = make_url(url)
    if database.get_backend_name() == "sqlite":
        path = Path(str(database.database))
        assert path.with_name(f"{path.name}-journal").stat().st_size > 0
        assert path.stat().st_size > 0


def test_a_killed_migration_changes_nothing(url: str, engine: Engine, source: Path) -> None:
    """The tables that it had dropped are there again, with their rows; left in peace, it drops them."""
    bring_up_to_date(engine, source)
    engine.dispose()
    with paused(downgrade_and_pause, url) as other:
        other.kill()
    with reading(engine) as connection:
        assert current_revision(connection) == tables.REVISION
    assert title(url) == "Cat"
    assert bring_up_to_date(engine, source) is False
    engine.dispose()
    with paused(downgrade_and_pause, url) as other:
        other.go_on()
    with reading(engine) as connection:
        assert current_revision(connection) is None
        assert not inspect(connection).has_table("concepts")
