from __future__ import annotations

import stat
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from saeuron_guard.cli.main import program
from saeuron_guard.policy.load import load_policy
from saeuron_guard.resources import data_folder

WEAPONS = data_folder("policies") / "no-weapons.yaml"
OLD = "saeuron-guard/v1alpha1"


def run(command: str, *arguments: str | Path) -> Result:
    """What a command of ``policy`` answers."""
    return CliRunner().invoke(program, ["policy", command, *(str(argument) for argument in arguments)])


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """The shipped policy as it would have been written for the older version."""
    path = tmp_path / "old.yaml"
    text = WEAPONS.read_text(encoding="utf-8").replace("saeuron-guard/v1", OLD)
    text = text.replace("  - concept: bomb\n", "  - concept: bomb\n    removal: 0.9  # harder\n")
    path.write_text(text, encoding="utf-8")
    path.chmod(0o640)
    return path


def told(path: Path) -> list[str]:
    """The changes of ``old``."""
    line = 1 + WEAPONS.read_text(encoding="utf-8").splitlines().index("  - concept: bomb") + 1
    return [
        f"{path}:2:1: apiVersion: saeuron-guard/v1alpha1 -> saeuron-guard/v1",
        f"{path}:{line}:5: concepts[2].removal -> concepts[2].require.removal",
    ]


def test_an_older_policy_leads_to_the_command_that_upgrades_it(old: Path) -> None:
    """``validate`` refuses it and names the command; what the command makes of it is valid and means the same."""
    refused = run("validate", "--no-registry", old)
    assert refused.exit_code == 2
    message = f"apiVersion '{OLD}' is an older version; run \"saeuron-guard policy upgrade {old}\""
    assert refused.stdout == f"{old}:2:13: {message}\n"
    result = run(*message.partition("saeuron-guard policy ")[2].rstrip('"').split())
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [*told(old), f"{old}: upgraded from {OLD} to saeuron-guard/v1"]
    assert run("validate", "--no-registry", old).exit_code == 0
    assert [rule.removal for rule in load_policy(old).concepts] == [0.85, 0.85, 0.9]
    assert stat.S_IMODE(old.stat().st_mode) == 0o640
    assert "require: {removal: 0.9}  # harder\n" in old.read_text(encoding="utf-8")


def test_check_writes_nothing(old: Path) -> None:
    """It tells the changes and exits with 2; with current files only, with 0."""
    before = old.read_bytes()
    result = run("upgrade", "--check", old, WEAPONS)
    assert result.exit_code == 2
    assert result.stdout.splitlines() == [
        *told(old),
        f"{old}: would be upgraded from {OLD} to saeuron-guard/v1",
        f"{WEAPONS}: is of saeuron-guard/v1 already",
    ]
    assert old.read_bytes() == before
    assert run("upgrade", "--check", WEAPONS).exit_code == 0


def test_all_files_are_tried(old: Path, tmp_path: Path) -> None:
    """An unknown version is refused with the known ones and the nearest; the other file is upgraded all the same."""
    unknown = tmp_path / "unknown.yaml"
    unknown.write_text("apiVersion: saeuron-guard/v1alpha\nkind: Policy\n", encoding="utf-8")
    result = run("upgrade", unknown, old)
    assert result.exit_code == 2
    assert result.stderr == (
        f"{unknown}:1:1: unknown apiVersion 'saeuron-guard/v1alpha'. This release knows 'saeuron-guard/v1alpha1' or "
        "'saeuron-guard/v1'. Did you mean 'saeuron-guard/v1alpha1'?\n"
    )
    assert result.stdout.splitlines()[-1] == f"{old}: upgraded from {OLD} to saeuron-guard/v1"


def test_links_are_not_written_through(old: Path, tmp_path: Path) -> None:
    """The target stays of its version, and no change is told that was not made."""
    link = tmp_path / "link.yaml"
    link.symlink_to(old)
    before = old.read_bytes()
    result = run("upgrade", link)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "symbolic link" in result.stderr
    assert old.read_bytes() == before
