"""Other processes that work on the same database: some pause inside a transaction, to be watched or killed."""

from __future__ import annotations

import contextlib
import multiprocessing
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection as Pipe
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

from alembic import command
from sqlalchemy import event, insert, select, update

from saeuron_guard.registry import build, tables
from saeuron_guard.registry.build import bring_up_to_date
from saeuron_guard.registry.database import engine_for, migrating, writing
from saeuron_guard.registry.migrate import configuration
from saeuron_guard.registry.store import FeatureRegistry

FRESH = multiprocessing.get_context("forkserver")
"""Processes that share nothing with ours, neither connections nor locks, but need not import everything anew."""
FRESH.set_forkserver_preload(["__main__", "tests.registry.processes"])
SECONDS = 60
COUNTER = "counter"


@dataclass
class Paused:
    """A process that has arrived inside its transaction and waits there."""

    process: BaseProcess
    pipe: Pipe

    def kill(self) -> None:
        """End it where it stands, with SIGKILL."""
        self.process.kill()
        self.process.join()
        assert self.process.exitcode == -9

    def go_on(self) -> None:
        """Let it finish; it has to succeed."""
        self.pipe.send(True)
        self.process.join(SECONDS)
        assert self.process.exitcode == 0


@contextlib.contextmanager
def paused(body: Callable[..., None], *arguments: object) -> Iterator[Paused]:
    """Start ``body(pipe, *arguments)`` in a process of its own and wait until it calls ``pause``."""
    ours, theirs = FRESH.Pipe()
    process = FRESH.Process(target=body, args=(theirs, *arguments))
    process.start()
    theirs.close()
    try:
        assert ours.poll(SECONDS), "the other process did not arrive"
        assert ours.recv() is True  # EOFError: it died on the way
        yield Paused(process, ours)
    finally:
        process.kill()
        process.join()
        ours.close()


def pause(pipe: Pipe) -> None:
    """Say that we are there, then wait for the word."""
    pipe.send(True)
    pipe.recv()


def at_once(body: Callable[..., object], *arguments: object, count: int = 2) -> list[Any]:
    """What ``body(number, *arguments)`` gives in ``count`` processes that start at the same moment."""
    gate, results = FRESH.Barrier(count), FRESH.Queue()
    processes = [
        FRESH.Process(target=_report, args=(gate, results, body, number, *arguments)) for number in range(count)
    ]
    try:
        for process in processes:
            process.start()
        found = [results.get(timeout=SECONDS) for _ in processes]
        for process in processes:
            process.join(SECONDS)
        assert [process.exitcode for process in processes] == [0] * count
    finally:
        for process in processes:
            process.kill()
            process.join()
    return found


def _report(gate: Barrier, results: Any, body: Callable[..., object], *arguments: object) -> None:
    gate.wait(SECONDS)
    results.put(body(*arguments))


def count_up(number: int, url: str, times: int) -> int:
    """Raise the counter by one, and leave a row of our own, ``times`` times; each in a transaction."""
    engine = engine_for(url)
    for position in range(times):
        with writing(engine) as connection:
            found = connection.execute(select(tables.meta.c.value).where(tables.meta.c.key == COUNTER)).scalar_one()
            connection.execute(
                update(tables.meta).where(tables.meta.c.key == COUNTER).values(value=str(int(found) + 1))
            )
            connection.execute(insert(tables.meta).values(key=f"{number}.{position}", value="here"))
    engine.dispose()
    return times


def open_and_count(_number: int, url: str, manifest: Path) -> int:
    """Build the registry, unless somebody else did, and count scores."""
    with FeatureRegistry.built(url, manifest=manifest) as registry:
        return len(registry.scores("tiny.objects.paper", "pistol"))


def hold_a_change(pipe: Pipe, url: str) -> None:
    """Rename the cat, pause before the end of the transaction."""
    engine = engine_for(url)
    with writing(engine) as connection:
        connection.execute(update(tables.concepts).where(tables.concepts.c.name == "cat").values(title="Tiger"))
        pause(pipe)
    engine.dispose()


def fill_and_pause(pipe: Pipe, url: str, manifest: Path) -> None:
    """Build the registry; pause when all rows are written and nothing is committed."""
    engine = engine_for(url)
    if engine.dialect.name == "sqlite":
        # With hardly any cache, SQLite writes into the file before the end: there will be something to take back.
        event.listen(engine, "connect", lambda connection, _: connection.execute("PRAGMA cache_size = 4"))
    sign = build._sign

    def sign_and_pause(*arguments: Any) -> None:
        sign(*arguments)
        pause(pipe)

    build._sign = sign_and_pause
    bring_up_to_date(engine, manifest)
    engine.dispose()


def downgrade_and_pause(pipe: Pipe, url: str) -> None:
    """Migrate down to nothing; pause when all tables are gone and nothing is committed."""
    engine = engine_for(url)
    with migrating(engine) as connection:
        command.downgrade(configuration(connection), "base")
        pause(pipe)
    engine.dispose()
