"""A registry that a team shares: the program's commands on PostgreSQL, and those that README.md gives."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from sqlalchemy.engine import make_url

from saeuron_guard.cli.main import program
from tests.registry.postgresql_server import PostgresqlServer
from tests.registry.synthetic import write_synthetic_registry

ROOT = Path(__file__).resolve().parents[2]
POLICY = """
apiVersion: saeuron-guard/v1
kind: Policy
metadata: {name: no-pistols, version: 1.0.0, owner: a-team}
target: {model: tiny}
concepts: [{concept: pistol}]
retain: {domains: [object]}
audit: {prompts: audit/tiny, seeds: [1]}
"""


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A synthetic registry in the place of the shipped one, with the real migrations."""
    write_synthetic_registry(tmp_path / "registry")
    (tmp_path / "migrations").symlink_to(ROOT / "migrations", target_is_directory=True)
    (tmp_path / "policies").mkdir()
    (tmp_path / "policy.yaml").write_text(POLICY, encoding="utf-8")
    monkeypatch.setenv("SAEURON_GUARD_HOME", str(tmp_path))
    monkeypatch.delenv("SAEURON_GUARD_DATABASE", raising=False)
    return tmp_path


def run(*arguments: str) -> Result:
    """Call the program; it has to succeed."""
    result = CliRunner().invoke(program, arguments)
    assert result.exit_code == 0, result.stderr
    return result


def test_every_command_gives_what_it_gives_on_sqlite(
    postgresql: PostgresqlServer, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Filled with ``registry migrate`` and named by the variable; list, show, check and compile say the same."""
    questions = (
        ("registry", "list"),
        ("registry", "list", "--models", "--format", "json"),
        ("registry", "show", "pistol", "--format", "json"),
        ("registry", "show", "tiny.objects:60"),
    )
    compile_to = ("compile", str(home / "policy.yaml"), "--out")
    expected = [run(*question).stdout for question in questions]
    run(*compile_to, str(home / "by-sqlite"))

    url = postgresql.new_database()
    made = run("registry", "migrate", "--database", url).stdout
    assert made.startswith(f"{url} holds 1 model, 4 concepts, 4 calibrations (manifest sha256:")
    assert run("registry", "migrate", "--database", url).stdout == made
    monkeypatch.setenv("SAEURON_GUARD_DATABASE", url)
    assert [run(*question).stdout for question in questions] == expected
    checked = json.loads(run("registry", "check", "--format", "json").stdout)
    assert (checked["database"], checked["passed"], checked["problems"]) == (url, True, [])
    run(*compile_to, str(home / "by-postgresql"))
    for name in ("guard.json", "guard.safetensors"):
        assert (home / "by-postgresql" / name).read_bytes() == (home / "by-sqlite" / name).read_bytes()

    database = str(make_url(url).database)
    postgresql.execute("UPDATE concepts SET title = 'From the database' WHERE name = 'pistol'", database)
    assert json.loads(run(*questions[2]).stdout)["concept"]["title"] == "From the database"


def test_the_commands_of_the_readme_work(postgresql: PostgresqlServer, home: Path, tmp_path: Path) -> None:
    """Run as they stand there, on our server in place of the example's; who only reads needs no more than it says."""
    section = re.search(
        r"^## A registry for a team\n(.*?)^## ", (ROOT / "README.md").read_text("utf-8"), re.MULTILINE | re.DOTALL
    )
    assert section
    (block,) = re.findall(r"^```sh\n(.*?)^```$", section[1], flags=re.MULTILINE | re.DOTALL)
    install, *commands = block.splitlines()
    extra = re.fullmatch(r"pip install 'saeuron-guard\[(\w+)\]'", install)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert extra
    assert [entry.partition(">")[0] for entry in project["optional-dependencies"][extra[1]]] == ["psycopg[binary]"]

    shim = tmp_path / "bin" / "saeuron-guard"
    shim.parent.mkdir()
    shim.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m saeuron_guard "$@"\n')
    shim.chmod(0o755)
    postgresql.execute("CREATE ROLE guard LOGIN CREATEDB")
    postgresql.execute("CREATE ROLE readers LOGIN")
    environment = os.environ | {
        "PATH": os.pathsep.join([str(shim.parent), str(postgresql.programs), os.environ["PATH"]]),
        "PYTHONPATH": str(ROOT),
        "PGHOST": str(postgresql.folder),
    }
    script = "\n".join(commands).replace("--host db.example.org ", "").replace("db.example.org", "")
    assert "example" not in script
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        check=False,
        env=environment,
        cwd=home,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "holds 1 model, 4 concepts, 4 calibrations" in done.stdout
    assert "6 of 6 pinned files are as recorded" in done.stdout
    reading = postgresql.url("registry", "readers")
    assert run("registry", "list", "--database", reading).stdout == run("registry", "list").stdout
    writing = CliRunner().invoke(
        program, ["registry", "migrate", "--database", reading, "--manifest", str(other_manifest(home))]
    )
    assert writing.exit_code == 3
    assert "permission denied" in writing.stderr


def other_manifest(home: Path) -> Path:
    """The same manifest with another digest."""
    path = home / "registry" / "other.yaml"
    path.write_text((home / "registry" / "manifest.yaml").read_text("utf-8") + "# a remark\n", encoding="utf-8")
    return path
