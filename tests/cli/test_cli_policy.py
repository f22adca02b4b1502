from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from jsonschema import Draft202012Validator

from saeuron_guard.cli.main import program
from saeuron_guard.policy.load import load_policy
from saeuron_guard.policy.schema import policy_schema
from saeuron_guard.prompts.schema import prompt_set_schema
from saeuron_guard.resources import data_folder
from tests.registry.synthetic import MODEL, Synthetic, write_synthetic_registry

WEAPONS = Path(__file__).parents[1] / "policies" / "no-weapons.yaml"  # a copy: the tests count lines


def run(*arguments: str | Path) -> Result:
    """What ``policy`` answers."""
    return CliRunner().invoke(program, ["policy", *map(str, arguments)], catch_exceptions=False)


@pytest.fixture
def faulty(tmp_path: Path) -> Path:
    """A policy with two mistakes, in lines 4 and 14."""
    path = tmp_path / "faulty.yaml"
    lines = WEAPONS.read_text(encoding="utf-8").splitlines()
    path.write_text("\n".join([*lines[:4], "  nmae: x", *lines[5:13], "  - concept: on", *lines[14:]]), "utf-8")
    return path


def test_a_valid_policy_is_called_valid() -> None:
    """The answer names the policy, its version and digest; exit code 0."""
    result = run("validate", "--no-registry", WEAPONS)
    assert result.exit_code == 0
    assert result.output == f"{WEAPONS}: valid (no-weapons 1.0.0, {load_policy(WEAPONS).digest}), no waivers\n"


def test_all_problems_of_all_files_are_told(faulty: Path, tmp_path: Path) -> None:
    """A faulty file stops neither the rest of itself nor the next file; exit code 2."""
    result = run("validate", "--no-registry", faulty, WEAPONS, tmp_path / "missing.yaml")
    assert result.exit_code == 2
    assert result.output.splitlines() == [
        (
            f"{faulty}:4:1: missing key 'name' in metadata (a name of lower-case letters, digits and hyphens, such as "
            "no-weapons)"
        ),
        f"{faulty}:5:3: unknown key 'nmae' (metadata.nmae). Did you mean 'name'?",
        f"{faulty}:14:14: some programs read on as true; write true, or 'on' in quotes",
        f"{WEAPONS}: valid (no-weapons 1.0.0, {load_policy(WEAPONS).digest}), no waivers",
        f"{tmp_path}/missing.yaml: there is no such file",
    ]


def test_github_marks_the_same_places(faulty: Path, tmp_path: Path) -> None:
    """One workflow command a problem, a notice for a valid file; what the command's syntax needs is escaped."""
    odd = tmp_path / "50%, a:b.yaml"
    result = run("validate", "--no-registry", "--format", "github", faulty, WEAPONS, odd)
    assert result.exit_code == 2
    lines = result.output.splitlines()
    assert lines[1] == f"::error file={faulty},line=5,col=3::unknown key 'nmae' (metadata.nmae). Did you mean 'name'?"
    notice = f"::notice file={WEAPONS},line=1,col=1::valid, no waivers"
    assert lines[3:] == [f"::error file={tmp_path}/50%25%2C a%3Ab.yaml,line=1,col=1::there is no such file", notice]
    assert run("validate", "--no-registry", "--format", "github", WEAPONS).output == notice + "\n"


def test_json_tells_the_same(faulty: Path) -> None:
    """The same problems as data, and the same exit code."""
    result = run("validate", "--no-registry", "--format", "json", faulty, WEAPONS)
    assert result.exit_code == 2
    bad, good = json.loads(result.stdout)["files"]
    assert (bad["file"], bad["valid"], bad["policy"]) == (str(faulty), False, None)
    assert [(problem["line"], problem["column"]) for problem in bad["problems"]] == [(4, 1), (5, 3), (14, 14)]
    digest = load_policy(WEAPONS).digest
    assert good["policy"] == {"name": "no-weapons", "version": "1.0.0", "digest": digest, "status": "experimental"}
    assert good["waivers"] == {"count": {"active": 0, "unused": 0, "expired": 0}, "waivers": []}
    assert (good["valid"], good["problems"]) == (True, [])


def test_audit_prompts_have_to_exist(tmp_path: Path) -> None:
    """A policy that names no known prompt set is faulty where it names it, one with anchor prompts too."""
    for name, message in (
        ("audit/emoji-canva", "Did you mean 'audit/emoji-canvas'?"),
        ("anchor/emoji-canvas", "this prompt set's role is anchor; expected one whose role is audit"),
    ):
        path = tmp_path / "policy.yaml"
        path.write_text(WEAPONS.read_text(encoding="utf-8").replace("audit/emoji-canvas", name), encoding="utf-8")
        result = run("validate", "--no-registry", path)
        assert result.exit_code == 2
        assert result.output.startswith(f"{path}:22:12: prompt set {name}: ")
        assert result.output.endswith(f"{message}\n")


def test_what_is_wrong_in_a_prompt_set_is_told_there(tmp_path: Path) -> None:
    """The problem of the prompt set's file has that file's place."""
    text = WEAPONS.read_text(encoding="utf-8").replace("audit/emoji-canvas", "mine.yaml")
    (tmp_path / "policy.yaml").write_text(text, encoding="utf-8")
    (tmp_path / "mine.yaml").write_text("apiVersion: saeuron-guard/v1\nkind: Policy\n", encoding="utf-8")
    result = run("validate", "--no-registry", tmp_path / "policy.yaml")
    assert result.output == f"{tmp_path}/mine.yaml:2:7: expected kind 'PromptSet', got 'Policy'\n"


def test_no_files_are_wrong_usage() -> None:
    """Checking nothing is not a success."""
    assert run("validate").exit_code == 2


def test_the_schemas_are_printed() -> None:
    """They are the ones that the loaders use, as JSON."""
    assert json.loads(run("schema").stdout) == policy_schema()
    assert json.loads(run("schema", "--kind", "PromptSet").stdout) == prompt_set_schema()
    Draft202012Validator.check_schema(json.loads(run("schema").stdout))


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home with the shipped policies and a registry that knows pistol, knife and bomb; the home's folder."""
    home = tmp_path / "home"
    for name in ("policies", "migrations"):
        shutil.copytree(data_folder(name), home / name, ignore=shutil.ignore_patterns("__pycache__"))
    concepts = dict.fromkeys(("pistol", "knife", "bomb"), "object") | {"Noto": "style"}
    write_synthetic_registry(home / "registry", Synthetic(concepts=concepts, uncalibrated=("bomb",)))
    monkeypatch.setenv("SAEURON_GUARD_HOME", str(home))
    return home


def test_names_have_to_be_in_the_registry(registry: Path) -> None:
    """An unknown or uncalibrated concept is a problem where it is written; without the registry it is none."""
    path = registry / "policies" / "mine.yaml"
    text = WEAPONS.read_text(encoding="utf-8").replace("emoji-canvas\nconcepts", f"{MODEL}\nconcepts")
    path.write_text(text.replace("  - concept: bomb\n", ""), encoding="utf-8")
    assert run("validate", path).exit_code == 0
    path.write_text(text.replace("pistol", "pistl"), encoding="utf-8")
    result = run("validate", path)
    assert result.exit_code == 2
    first, second = result.output.splitlines()
    assert first.startswith(f"{path}:14:14: unknown concept 'pistl'. Did you mean 'pistol'?")
    assert second.startswith(f"{path}:17:14: concept 'bomb' has no calibration for model '{MODEL}'")
    assert run("validate", "--no-registry", path).exit_code == 0


def test_without_a_registry_nothing_is_called_valid(registry: Path, faulty: Path) -> None:
    """A registry that cannot be read is its own outcome; problems that are known without it are told all the same."""
    (registry / "registry" / "manifest.yaml").write_text("kind: Registry\n", encoding="utf-8")
    result = CliRunner().invoke(program, ["policy", "validate", str(WEAPONS), str(faulty)])
    assert result.exit_code == 3
    assert [line.partition(": ")[0] for line in result.stdout.splitlines()] == [
        f"{faulty}:4:1",
        f"{faulty}:5:3",
        f"{faulty}:14:14",
    ]
    assert "manifest.yaml:1:1: missing key" in result.stderr


@pytest.mark.parametrize("command", ["validate", "schema"])
def test_help_has_an_example(command: str) -> None:
    """Each command shows how it is called."""
    assert f"Example:\n    saeuron-guard policy {command}" in run(command, "--help").output
