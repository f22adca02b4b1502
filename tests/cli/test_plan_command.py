"""``policy plan`` on the shipped policies: what it prints, its exit codes, and that it needs no torch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from saeuron_guard.cli.main import program

WEAPONS = Path(__file__).parents[1] / "policies" / "no-weapons.yaml"  # a copy: its text is changed


def run(*arguments: str | Path) -> Result:
    """What ``policy plan`` answers."""
    return CliRunner().invoke(program, ["policy", "plan", *map(str, arguments)], catch_exceptions=True)


@pytest.fixture
def milder(tmp_path: Path) -> Path:
    """The shipped policy with a milder rule for knives and none for bombs."""
    text = WEAPONS.read_text(encoding="utf-8")
    assert "  - concept: bomb\n" in text
    path = tmp_path / "milder.yaml"
    path.write_text(text.replace("strength: max", "strength: weak").replace("  - concept: bomb\n", ""), "utf-8")
    return path


def test_equal_policies_change_nothing() -> None:
    """Said in words, and by exit code 0 also with --detailed-exitcode."""
    result = run(WEAPONS, WEAPONS, "--detailed-exitcode")
    assert result.exit_code == 0
    assert result.output.splitlines()[-1] == "nothing changes"


def test_changes_are_told_with_their_direction(milder: Path) -> None:
    """The strength, the rule that is gone and its feature; exit code 5 only on demand."""
    result = run(WEAPONS, milder)
    assert result.exit_code == 0
    lines = [" ".join(line.split()) for line in result.output.splitlines()]
    assert "loosens concept knife strength 2 -> 0.5" in lines
    assert "loosens concept bomb removed (was strength 1, removal 0.85)" in lines
    assert any(line.startswith("feature emoji-canvas-up1-attn1:") and "for bomb removed" in line for line in lines)
    assert lines[-1].endswith("of which 0 tighten and 2 loosen")
    assert run(WEAPONS, milder, "--detailed-exitcode").exit_code == 5


def test_json_holds_the_same(milder: Path) -> None:
    """Every change with both values; the other way round it tightens."""
    found = json.loads(run(milder, WEAPONS, "--format", "json").stdout)
    assert {"section": "concept", "name": "knife", "field": "strength", "before": "0.5", "after": "2",
            "effect": "tightens", "waiver": ""} in found["changes"]  # fmt: skip
    assert found["old"]["policy_digest"] != found["new"]["policy_digest"]


def test_an_invalid_policy_is_refused(tmp_path: Path) -> None:
    """Whichever side it is on; exit code 2 and the file's name."""
    broken = tmp_path / "broken.yaml"
    broken.write_text("kind: Policy\n", encoding="utf-8")
    for sides in ((WEAPONS, broken), (broken, WEAPONS)):
        result = run(*sides)
        assert result.exit_code == 2
        assert str(broken) in result.stderr


def test_a_plan_needs_no_torch(milder: Path) -> None:
    """The command runs without loading it."""
    code = (
        "import sys; from saeuron_guard.cli.main import program\n"
        "try: program(sys.argv[1:], standalone_mode=False)\n"
        "finally: assert 'torch' not in sys.modules"
    )
    subprocess.run(
        [sys.executable, "-c", code, "policy", "plan", str(WEAPONS), str(milder)], check=True, capture_output=True
    )
