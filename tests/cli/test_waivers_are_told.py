"""Waivers are counted and printed by every command that reads a policy, in every format, from one evaluation."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from saeuron_guard.cli.main import program
from saeuron_guard.policy.load import load_policy
from saeuron_guard.report.html import render_html
from saeuron_guard.report.json import render_json
from saeuron_guard.report.text import render_text
from saeuron_guard.resources import data_folder
from tests.verify.samples import result_of

WEAPONS = data_folder("policies") / "no-weapons.yaml"
TODAY = datetime.now(UTC).date()
SOON, PAST = TODAY + timedelta(days=20), TODAY - timedelta(days=1)
COUNT = "3 waivers: 1 active, 1 unused, 1 expired"
WAIVED = "concepts.knife.strength"


@pytest.fixture
def waived(tmp_path: Path) -> Path:
    """A policy that extends the shipped one, with a waiver in use, one for nothing and one that has expired."""
    path = tmp_path / "waived.yaml"
    entry = "  - {{what: {}, reason: A kitchen shop., owner: safety, ticket: TS-{}, expires: {}}}\n"
    path.write_text(
        "apiVersion: saeuron-guard/v1\nkind: Policy\nmetadata: {name: waived, version: 1.0.0, owner: safety}\n"
        "extends: [no-weapons]\nconcepts:\n  - {concept: knife, strength: weak}\nwaivers:\n"
        + entry.format("concepts.knife", 1, SOON)
        + entry.format("retain.max_loss", 2, SOON)
        + entry.format("concepts.bomb", 3, PAST),
        encoding="utf-8",
    )
    return path


def run(*arguments: str | Path) -> Result:
    """What the program answers."""
    result = CliRunner().invoke(program, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result


Command = Callable[[Path, Path], list[str | Path]]
COMMANDS: dict[str, Command] = {
    "validate": lambda policy, _: ["policy", "validate", policy],
    "validate github": lambda policy, _: ["policy", "validate", "--format", "github", policy],
    "explain": lambda policy, _: ["policy", "explain", policy],
    "plan": lambda policy, _: ["policy", "plan", WEAPONS, policy],
    "compile": lambda policy, folder: ["compile", policy, "--no-record", "--out", folder / "guard"],
}


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_text_tells_all_of_them(
    command: Callable[[Path, Path], list[str | Path]], waived: Path, tmp_path: Path
) -> None:
    """The count and each waiver with its state; of a policy without any, that there are none."""
    output = run(*command(waived, tmp_path)).output
    assert COUNT in output
    assert f"active until {SOON}: concepts.knife of waived covers {WAIVED} (TS-1, safety): A kitchen shop." in output
    assert f"unused until {SOON}: retain.max_loss" in output
    assert f"expired until {PAST}: concepts.bomb" in output
    assert "no waivers" in run(*command(WEAPONS, tmp_path / "other")).output


@pytest.mark.parametrize("command", ["validate", "explain", "plan"])
def test_json_tells_all_of_them(command: str, waived: Path, tmp_path: Path) -> None:
    """The same counts and entries under the key waivers."""
    value = json.loads(run(*COMMANDS[command](waived, tmp_path), "--format", "json").output)
    told = {"validate": lambda: value["files"][0], "explain": lambda: value, "plan": lambda: value["new"]}[command]()
    assert told["waivers"]["count"] == {"active": 1, "unused": 1, "expired": 1}
    assert [(waiver["ticket"], waiver["state"]) for waiver in told["waivers"]["waivers"]] == [
        ("TS-1", "active"), ("TS-2", "unused"), ("TS-3", "expired"),
    ]  # fmt: skip


def test_reports_of_a_verification_tell_all_of_them(waived: Path) -> None:
    """As text, JSON and HTML."""
    result = result_of(waivers=load_policy(waived).waivers)
    assert COUNT in render_text(result)
    assert COUNT in render_html(result)
    assert json.loads(render_json(result))["waivers"]["count"] == {"active": 1, "unused": 1, "expired": 1}
    assert "no waivers" in render_text(result_of())
    assert "no waivers" in render_html(result_of())


def test_a_guard_remembers_what_it_was_made_under(waived: Path, tmp_path: Path) -> None:
    """Its file holds the waiver that loosened something, and inspect says when that has run out."""
    run("compile", waived, "--no-record", "--out", tmp_path / "guard")
    (held,) = json.loads((tmp_path / "guard" / "guard.json").read_text(encoding="utf-8"))["waivers"]
    assert (held["what"], held["covers"], held["expires"]) == ("concepts.knife", [WAIVED], SOON.isoformat())
    output = run("guard", "inspect", tmp_path / "guard").output
    assert "made under 1 waiver, 0 expired by now" in output
    assert f"until {SOON}: {WAIVED} (TS-1, safety): A kitchen shop." in output


def test_a_plan_says_which_loosening_is_waived(waived: Path) -> None:
    """The loosened strength carries its waiver; nothing else does."""
    value = json.loads(run("policy", "plan", WEAPONS, waived, "--format", "json").output)
    told = {(change["name"], change["field"]): change["waiver"] for change in value["changes"]}
    assert told["knife", "strength"].startswith(f"active until {SOON}: concepts.knife of waived")
    assert {waiver for key, waiver in told.items() if key != ("knife", "strength")} == {""}


def test_warnings_come_with_strict(waived: Path) -> None:
    """Unused and expired waivers are warnings: exit code 4 under --strict, and 0 for a policy without any."""
    result = CliRunner().invoke(program, ["policy", "validate", "--strict", str(waived)])
    assert result.exit_code == 4
    assert f"{waived}:9:12: warning: the waiver for 'retain.max_loss' covers nothing; remove it" in result.output
    assert f"{waived}:10:12: warning: the waiver for 'concepts.bomb' expired on {PAST}; remove it" in result.output
    assert CliRunner().invoke(program, ["policy", "validate", "--strict", str(WEAPONS)]).exit_code == 0


def test_as_of_another_day_the_waiver_is_gone(waived: Path) -> None:
    """What will become invalid can be asked beforehand."""
    later = SOON + timedelta(days=1)
    result = CliRunner().invoke(program, ["policy", "validate", "--as-of", later.isoformat(), str(waived)])
    assert result.exit_code == 2
    assert f"The waiver for it expired on {SOON}." in result.output
