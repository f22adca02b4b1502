"""Brings a database to the schema of this release and refuses one that is of another.

Alembic runs from here, with the shipped ``migrations/`` folder and without a configuration file.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import Connection, Engine, inspect, select
from sqlalchemy import text as sql
from sqlalchemy.engine import URL

from saeuron_guard.errors import RegistryError
from saeuron_guard.registry.database import DATABASE_VARIABLE, migrating, shown, without_secrets
from saeuron_guard.registry.stamp import Stamp
from saeuron_guard.registry.tables import REVISION, meta
from saeuron_guard.resources import data_folder

if TYPE_CHECKING:
    from alembic.config import Config

VERSION_KEY = "written_by"
"""Key in ``meta`` of the release that last migrated the database."""


def current_revision(connection: Connection) -> str | None:
    """The revision that the database is of; None for an empty one."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    revision: str | None = connection.execute(sql("SELECT version_num FROM alembic_version")).scalar()
    return revision


def require_current(connection: Connection) -> None:
    """Raise RegistryError, with the command that helps, unless the database is of this release's revision."""
    revision = current_revision(connection)
    if revision == REVISION:
        return
    where = shown(connection.engine.url)
    advice = f'run "{migrate_command(connection.engine.url)}"'
    if revision is None:
        raise RegistryError(f"{where}: holds no registry; to make one there, {advice}")
    refuse_unknown(connection)
    raise RegistryError(f"{where}: is of revision {revision}, this release needs {REVISION}; {advice}")


def migrate_command(url: URL) -> str:
    """The command that makes or migrates the database at ``url``; a password stays hidden."""
    return f"saeuron-guard registry migrate --database {without_secrets(url).render_as_string()}"


def refuse_unknown(connection: Connection) -> None:
    """Raise RegistryError when the database was written by a newer release, saying which one it needs."""
    from alembic.script import ScriptDirectory

    revision = current_revision(connection)
    if revision is None or revision == REVISION:
        return
    known = {script.revision for script in ScriptDirectory.from_config(configuration()).walk_revisions()}
    if revision in known:
        return
    raise RegistryError(
        f"{shown(connection.engine.url)}: is of revision {revision}, this release knows revisions up to {REVISION}; "
        f"it needs {_needed_release(connection)}: install that, or name another database in {DATABASE_VARIABLE}"
    )


def upgrade(connection: Connection, revision: str = "head", *, stamp: Stamp | None = None) -> None:
    """Migrate up to ``revision`` within the connection's transaction (of ``database.migrating``).

    ``stamp``: who does it, and when; None: this process, now.
    """
    from alembic import command

    refuse_unknown(connection)
    command.upgrade(configuration(connection, stamp), revision)


def downgrade(engine: Engine, revision: str) -> None:
    """Migrate down to ``revision`` (``base`` empties the database), in one transaction."""
    from alembic import command

    with migrating(engine) as connection:
        refuse_unknown(connection)
        command.downgrade(configuration(connection), revision)


def configuration(connection: Connection | None = None, stamp: Stamp | None = None) -> Config:
    """Alembic's configuration; ``migrations/env.py`` works on ``connection``."""
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(data_folder("migrations")).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    config.attributes["stamp"] = stamp
    return config


def _needed_release(connection: Connection) -> str:
    unnamed = "a newer release of saeuron-guard"
    if not inspect(connection).has_table(meta.name):
        return unnamed
    release = connection.execute(select(meta.c.value).where(meta.c.key == VERSION_KEY)).scalar()
    return f"saeuron-guard {release} or newer" if release else unnamed
