"""Runs migrations on the connection that ``saeuron_guard.registry.migrate`` hands over.

For authors of migrations, ``alembic`` on the command line works too, on the database that SAEURON_GUARD_DATABASE names.
"""

from __future__ import annotations

from alembic import context
from sqlalchemy import Connection

from saeuron_guard.errors import RegistryError
from saeuron_guard.registry.database import configured_url, engine_for, migrating
from saeuron_guard.registry.events import append_event, is_kept
from saeuron_guard.registry.stamp import Stamp
from saeuron_guard.registry.tables import metadata


def migrate(connection: Connection) -> None:
    """Run the migrations in the connection's transaction, so that a failed one leaves nothing behind.

    The chain of events, where there is one after it, gets an event of it.
    """
    context.configure(
        connection=connection,
        target_metadata=metadata,
        transactional_ddl=True,  # true of SQLite, too, since the registry's connections say BEGIN themselves
        render_as_batch=connection.dialect.name == "sqlite",
        compare_server_default=True,
    )
    before = context.get_context().get_current_revision()
    context.run_migrations()
    after = context.get_context().get_current_revision()
    if after != before and is_kept(connection):
        stamp = context.config.attributes.get("stamp") or Stamp.now()
        append_event(connection, stamp, "migration", str(after), {"from": before, "to": after})


given = context.config.attributes.get("connection")
if context.is_offline_mode():
    raise RegistryError("migrations need a database: run them without --sql")
if given is not None:
    migrate(given)
else:
    url = configured_url()
    if url is None:
        raise RegistryError("set SAEURON_GUARD_DATABASE to the database's URL, or use saeuron-guard registry migrate")
    with migrating(engine_for(url)) as own:
        migrate(own)
