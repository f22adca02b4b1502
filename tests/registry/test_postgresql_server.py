"""The tests' own server: it leaves nothing behind, and where there is none, that is said."""

from __future__ import annotations

import os
from pathlib import Path

import psycopg
import pytest

from tests.registry import postgresql_server
from tests.registry.postgresql_server import NoPostgresql, PostgresqlServer, find_programs, running_server


def test_a_server_is_gone_after_a_failure(postgresql: PostgresqlServer) -> None:
    """Neither its processes nor its folder are left, though somebody was connected; another server runs on."""
    with pytest.raises(ZeroDivisionError), running_server(postgresql.programs) as server:  # noqa: PT012 - the failure is the last line
        number = int((server.folder / "data" / "postmaster.pid").read_text().split()[0])
        os.kill(number, 0)
        with server.connected() as connection:
            raise ZeroDivisionError
    assert not server.folder.exists()
    with pytest.raises(ProcessLookupError):
        os.killpg(number, 0)
    with pytest.raises(psycopg.OperationalError):
        connection.execute("SELECT 1")
    assert postgresql.execute("SELECT 1") == [(1,)]


def test_a_server_listens_to_its_socket_only(postgresql: PostgresqlServer) -> None:
    """No port of the machine is open, and the socket is the owner's and root's to reach."""
    assert postgresql.execute("SELECT current_setting('listen_addresses')") == [("",)]
    assert postgresql.folder.stat().st_mode & 0o077 == 0


def test_where_there_is_no_postgresql_the_message_helps(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Neither in a package nor on PATH nor in Debian's place: the commands that bring it. On PATH, it is found."""
    monkeypatch.setattr(postgresql_server, "PACKAGE", "no_such_package")
    monkeypatch.setattr(postgresql_server, "DEBIAN", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NoPostgresql, match=r"pip install -e '\.\[test\]' brings it, so does apt-get install"):
        find_programs()
    for name in ("initdb", "postgres"):
        (tmp_path / name).write_text("#!/bin/sh\necho 'postgres (PostgreSQL) 18.4'\n")
        (tmp_path / name).chmod(0o755)
    assert find_programs() == tmp_path
