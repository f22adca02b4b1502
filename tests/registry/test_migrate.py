from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, insert, inspect, update
from sqlalchemy import text as sql

from saeuron_guard.errors import RegistryError
from saeuron_guard.registry import tables
from saeuron_guard.registry.build import bring_up_to_date
from saeuron_guard.registry.database import engine_for, migrating, reading, writing
from saeuron_guard.registry.migrate import (
    VERSION_KEY,
    configuration,
    current_revision,
    downgrade,
    require_current,
    upgrade,
)
from saeuron_guard.registry.store import FeatureRegistry


@pytest.fixture
def filled(source: Path, engine: Engine) -> Engine:
    """A database filled from a synthetic registry."""
    assert bring_up_to_date(engine, source)
    return engine


def count(engine: Engine, table: str) -> int:
    """The number of rows of a table."""
    with reading(engine) as connection:
        return int(connection.execute(sql(f"SELECT count(*) FROM {table}")).scalar_one())  # noqa: S608 - our own names


def test_migrations_make_the_tables_that_the_program_uses(engine: Engine) -> None:
    """Alembic finds nothing to add, and would find a missing column."""
    with migrating(engine) as connection:
        upgrade(connection)
    with reading(engine) as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        assert compare_metadata(context, tables.metadata) == []
        connection.execute(sql("ALTER TABLE concepts ADD COLUMN colour TEXT"))
        assert len(compare_metadata(context, tables.metadata)) == 1


def test_constraints_are_the_same_as_in_the_tables(engine: Engine, new_url: Callable[[], str]) -> None:
    """Alembic does not compare check constraints, so this does; names are the naming convention's."""
    with migrating(engine) as connection:
        upgrade(connection)
    other = engine_for(new_url())
    tables.metadata.create_all(other)
    for table in tables.metadata.tables:
        for kind in ("get_check_constraints", "get_unique_constraints", "get_foreign_keys", "get_indexes"):
            migrated, declared = (getattr(inspect(which), kind)(table) for which in (engine, other))
            by_name = {constraint["name"]: constraint for constraint in declared}
            assert {constraint["name"]: constraint for constraint in migrated} == by_name
        assert inspect(engine).get_pk_constraint(table) == inspect(other).get_pk_constraint(table)
    assert inspect(engine).get_check_constraints("saes")
    assert inspect(engine).get_indexes("saes")
    other.dispose()


def test_the_program_knows_the_newest_revision() -> None:
    """``tables.REVISION`` spares Alembic at every opening, so it has to be the scripts' head."""
    assert ScriptDirectory.from_config(configuration()).get_current_head() == tables.REVISION


def test_down_and_up_again_with_rows(filled: Engine, source: Path) -> None:
    """Going down removes tables and rows, going up and filling gives the same registry."""
    rows = count(filled, "feature_scores")
    assert rows == 2 * 4 * 3 * 8
    downgrade(filled, "base")
    with reading(filled) as connection:
        assert current_revision(connection) is None
        assert inspect(connection).get_table_names() == ["alembic_version"]
    assert bring_up_to_date(filled, source)
    assert count(filled, "feature_scores") == rows


def test_a_failed_migration_leaves_nothing(engine: Engine) -> None:
    """Schema changes are part of the transaction on SQLite, too."""
    with pytest.raises(ZeroDivisionError), migrating(engine) as connection:  # noqa: PT012 - the failure is the last line
        upgrade(connection)
        assert inspect(connection).has_table("models")
        raise ZeroDivisionError
    with reading(engine) as connection:
        assert inspect(connection).get_table_names() == []


def test_a_database_of_a_newer_release_is_refused(filled: Engine, source: Path) -> None:
    """The message says which release wrote it; a known revision passes."""
    with reading(filled) as connection:
        require_current(connection)
    with writing(filled) as connection:
        connection.execute(sql("UPDATE alembic_version SET version_num = '0815'"))
        connection.execute(tables.meta.delete().where(tables.meta.c.key == VERSION_KEY))
        connection.execute(insert(tables.meta).values(key=VERSION_KEY, value="7.1.0"))
    known = f"this release knows revisions up to {tables.REVISION}"
    expected = f"is of revision 0815, {known}; it needs saeuron-guard 7.1.0 or newer"
    with pytest.raises(RegistryError, match=expected):
        FeatureRegistry.open(filled.url.render_as_string())
    with pytest.raises(RegistryError, match=expected):
        bring_up_to_date(filled, source)
    with pytest.raises(RegistryError, match=expected):
        downgrade(filled, "base")


def test_foreign_keys_are_enforced(filled: Engine) -> None:
    """A score of a run that does not exist is refused at once, one of an existing run is taken."""
    row = dict.fromkeys(("score", "mean", "mean_others", "threshold", "firing_rate"), 0.5)
    row |= {"concept_id": 1, "timestep": 5, "rank": 0, "feature": 1}
    with writing(filled) as connection:
        connection.execute(insert(tables.feature_scores), {**row, "run_id": 1})
    with pytest.raises(RegistryError, match=r"(?i)foreign key"), writing(filled) as connection:
        connection.execute(insert(tables.feature_scores), {**row, "run_id": 99, "timestep": 6})


def test_a_migration_that_orphans_rows_is_undone(filled: Engine) -> None:
    """While SQLite alters tables foreign keys rest, but they are checked before the transaction is committed."""
    with (
        pytest.raises(RegistryError, match=r"would refer to nothing|foreign key"),
        migrating(filled) as connection,
    ):
        connection.execute(update(tables.saes).values(model_id=99))
    with reading(filled) as connection:
        assert connection.execute(sql("SELECT max(model_id) FROM saes")).scalar() == 1
    with pytest.raises(RegistryError, match=r"(?i)foreign key"), writing(filled) as connection:
        connection.execute(update(tables.saes).values(model_id=99))
