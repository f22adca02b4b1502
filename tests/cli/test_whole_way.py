"""From a policy file over a registry to a guard folder, as the commands do it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from saeuron_guard.cli.main import program
from saeuron_guard.compiler.source import FeatureSource
from saeuron_guard.guard.guard import Guard
from saeuron_guard.registry.store import FeatureRegistry
from tests.registry.synthetic import write_synthetic_registry

POLICY = """apiVersion: saeuron-guard/v1
kind: Policy
metadata: {name: no-pistol, version: 1.0.0, owner: tests}
target: {model: tiny}
concepts:
  - {concept: pistol}
  - {concept: Noto, strength: 0}
retain: {domains: [object, style]}
audit: {prompts: audit/none, seeds: [1]}
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of its own for the program: a small registry with weights, and a policy."""
    write_synthetic_registry(tmp_path / "registry")
    (tmp_path / "policy.yaml").write_text(POLICY, encoding="utf-8")
    monkeypatch.setenv("SAEURON_GUARD_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    shipped = Path(__file__).parents[2] / "migrations"
    (tmp_path / "migrations").symlink_to(shipped)
    return tmp_path


def call(*arguments: str) -> Result:
    """The program's answer."""
    return CliRunner().invoke(program, list(arguments))


def test_the_registry_is_what_the_compiler_asks_for(home: Path) -> None:
    """The real registry has every method that the compiler calls, with the types that it expects."""
    with FeatureRegistry.open() as registry:
        source: FeatureSource = registry
        assert [model.name for model in source.models()] == ["tiny"]


def test_compile_writes_a_guard_that_loads(home: Path) -> None:
    """The written folder is a guard with the digest that the command printed, and inspect shows the same."""
    result = call("compile", "policy.yaml", "--out", "build/guard")
    assert result.exit_code == 0, result.stderr
    guard = Guard.load(home / "build" / "guard")
    assert guard.config.digest in result.stdout
    assert guard.config.digest in call("guard", "inspect", "build/guard").stdout
    assert sorted(path.name for path in (home / "build").iterdir()) == ["guard"]


def test_compiling_again_gives_the_same_bytes(home: Path) -> None:
    """Two compilations of one policy write the same configuration; the second needs --force."""
    assert call("compile", "policy.yaml", "--out", "guard").exit_code == 0
    before = (home / "guard" / "guard.json").read_bytes()
    assert call("compile", "policy.yaml", "--out", "guard").exit_code == 3
    assert call("compile", "policy.yaml", "--out", "guard", "--force").exit_code == 0
    assert (home / "guard" / "guard.json").read_bytes() == before


def test_a_failed_compilation_leaves_the_old_guard(home: Path) -> None:
    """When the new guard cannot be written, the folder holds the old one, whole, and nothing else is left behind."""
    assert call("compile", "policy.yaml", "--out", "guard").exit_code == 0
    before = {path.name: path.read_bytes() for path in (home / "guard").iterdir()}
    there = {path.name for path in home.iterdir()}
    for weights in home.rglob("registry/**/sae.safetensors"):
        weights.write_bytes(b"damaged")
    result = call("compile", "policy.yaml", "--out", "guard", "--force")
    assert result.exit_code == 3
    assert "sae.safetensors" in result.stderr
    assert {path.name: path.read_bytes() for path in (home / "guard").iterdir()} == before
    assert {path.name for path in home.iterdir()} == there


def test_compile_reports_all_mistakes_with_their_places(home: Path) -> None:
    """An unknown concept ends in exit 2 with file, line, column and the nearest name; nothing is written."""
    (home / "policy.yaml").write_text(POLICY.replace("concept: pistol", "concept: pistl"), encoding="utf-8")
    result = call("compile", "policy.yaml", "--out", "guard")
    assert result.exit_code == 2
    assert result.stderr.startswith("policy.yaml:6:15: unknown concept 'pistl'. Did you mean 'pistol'?")
    assert not (home / "guard").exists()


def test_explain_names_the_features(home: Path) -> None:
    """Text and JSON name the same features, from the same guard."""
    text = call("policy", "explain", "policy.yaml", "--concept", "pistol")
    assert text.exit_code == 0, text.stderr
    explained = json.loads(call("policy", "explain", "policy.yaml", "--concept", "pistol", "--format", "json").stdout)
    features = [row["feature"] for row in explained["concepts"][0]["points"][0]["features"]]
    assert features == ["tiny.objects:0", "tiny.objects:1", "tiny.objects:60"]
    assert all(name in text.stdout for name in features)
    assert explained["guard_digest"] in text.stdout


def test_explain_shows_collisions_of_the_shared_feature(home: Path) -> None:
    """The feature that every concept has among its best is reported for the retained concept, not for its own."""
    text = call("policy", "explain", "policy.yaml", "--concept", "pistol").stdout
    assert "tiny.objects:60 is among the best of cat" in text
    assert "among the best of pistol" not in text
