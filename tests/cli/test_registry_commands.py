from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from saeuron_guard.cli.main import program
from saeuron_guard.cli.tables import aligned
from saeuron_guard.registry.database import sqlite_url
from tests.registry.synthetic import Synthetic, write_synthetic_registry


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A synthetic registry in the place of the shipped one, with the real migrations."""
    root = Path(__file__).resolve().parents[2]
    write_synthetic_registry(tmp_path / "registry", Synthetic(uncalibrated=("cat",)))
    (tmp_path / "migrations").symlink_to(root / "migrations", target_is_directory=True)
    (tmp_path / "policies").mkdir()
    monkeypatch.setenv("SAEURON_GUARD_HOME", str(tmp_path))
    monkeypatch.delenv("SAEURON_GUARD_DATABASE", raising=False)
    return tmp_path


def run(*arguments: str) -> Result:
    """Call a registry command."""
    return CliRunner().invoke(program, ["registry", *arguments])


def test_list_shows_concepts_with_their_calibration() -> None:
    """Columns line up; a concept without a calibration says so."""
    result = run("list")
    assert result.exit_code == 0, result.output
    header, *rows = result.output.splitlines()
    assert header.split() == ["CONCEPT", "DOMAIN", "MODEL", "HOOKPOINT", "FEATURES", "MULTIPLIER", "CRA", "IRA", "UA"]
    assert rows[0].split() == ["cat", "object", "-", "not", "calibrated"]
    assert rows[1].split() == [
        "pistol", "object", "tiny", "unet.up_blocks.1.attentions.1", "3", "-4", "0.99", "0.98", "0.95",
    ]  # fmt: skip
    assert rows[1].index("tiny") == header.index("MODEL")
    assert len(run("list", "--domain", "style").output.splitlines()) == 3


def test_list_models_shows_what_belongs_to_them() -> None:
    """Models, SAEs, runs, prompt sets and judges, in text and JSON."""
    text = run("list", "--models").output
    assert "SAES (2)" in text
    assert "tiny.objects.paper" in text
    parsed = json.loads(run("list", "--models", "--format", "json").output)
    assert {kind: len(records) for kind, records in parsed.items()} == {
        "models": 1,
        "saes": 2,
        "scoring_runs": 2,
        "prompt_sets": 3,
        "judges": 1,
    }


def test_show_concept_and_show_feature_agree() -> None:
    """The concept's page names its features, and each feature's page names the concept."""
    page = json.loads(run("show", "pistol", "--format", "json").output)
    (chosen,) = [entry for entry in page["runs"] if entry["point"]]
    for feature in chosen["features"]:
        uses = json.loads(run("show", feature["feature"], "--format", "json").output)["uses"]
        (use,) = [use for use in uses if use["concept"] == "pistol"]
        assert use["summary"]["score"] == feature["score"]
        assert use["summary"]["chosen_at"] == feature["chosen_at"] == [901, 501, 101]
    text = run("show", "pistol", "--features", "2").output
    assert "multiplier -4" in text
    assert "figures: cra 0.99, ira 0.98, ua 0.95" in text
    assert "and 1 more: --features 3 shows them" in text
    assert "edited to remove: pistol" in run("show", "tiny.objects:60").output
    assert "edited to remove: nothing" in run("show", "tiny.objects:10").output
    assert "among the best features of no concept" in run("show", "tiny.objects:63").output


@pytest.mark.parametrize("name", ["pistl", "tiny.objects:64", "tiny.object:1"])
def test_show_answers_an_unknown_name_with_exit_3(name: str) -> None:
    """One line on stderr, no traceback."""
    result = run("show", name)
    assert result.exit_code == 3
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert "Traceback" not in result.stderr


def test_check_passes_and_then_finds_a_tampered_file(home: Path) -> None:
    """Exit 0 while everything is as pinned; then exit 3, with the expected and the actual digest, in both formats."""
    passed = run("check")
    assert (passed.exit_code, "6 of 6 pinned files are as recorded" in passed.output) == (0, True)
    (home / "registry/models/tiny/model_index.json").write_text("{}")
    failed = run("check")
    assert failed.exit_code == 3
    assert "FAILED models/tiny/model_index.json (tiny): expected sha256:" in failed.output
    assert "got sha256:" in failed.output
    parsed = run("check", "--format", "json")
    assert parsed.exit_code == 3
    assert json.loads(parsed.stdout)["passed"] is False


def test_check_compares_shipped_prompt_sets(home: Path) -> None:
    """A prompt set that was edited after it had been used is found; a broken one is an error, not a pass."""
    folder = home / "policies/prompts/audit"
    folder.mkdir(parents=True)
    (folder / "tiny-audit.yaml").write_text("apiVersion: saeuron-guard/v1\n")
    assert run("check").exit_code == 2
    (folder / "tiny-audit.yaml").unlink()
    assert run("check").exit_code == 0


def test_migrate_makes_a_database_elsewhere(tmp_path: Path) -> None:
    """It says what the database holds, and the other commands read it through the option or the environment."""
    url = sqlite_url(tmp_path / "team.sqlite")
    assert run("list", "--database", url).exit_code == 3
    made = run("migrate", "--database", url)
    assert made.exit_code == 0, made.output
    assert "holds 1 model, 4 concepts, 3 calibrations" in made.output
    assert run("list", "--database", url).output == run("list").output
    assert run("migrate", "--database", url).output == made.output


def test_a_table_is_as_wide_as_its_widest_cells() -> None:
    """Numbers stand to the right, short rows end early, no line has trailing blanks."""
    assert aligned(["A", "LONG"], [["x", "1"], ["yyy"]], right=["LONG"]) == ["A    LONG", "x       1", "yyy"]
