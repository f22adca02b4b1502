"""From a diffusers folder and somebody's SAE checkpoint to a registry of one's own, as the commands do it."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import diffusers
import pytest
from click.testing import CliRunner, Result
from safetensors.numpy import safe_open

from saeuron_guard.cli.card import unknown_or
from saeuron_guard.cli.main import program
from saeuron_guard.cli.registry_text import model_tables
from saeuron_guard.digests import digest_of_file
from saeuron_guard.pipelines.load import load_pipeline
from saeuron_guard.registry.manifest import load_manifest, write_manifest
from saeuron_guard.registry.records import ConceptRecord, ScoringRun
from saeuron_guard.registry.store import FeatureRegistry
from tests.cli.test_cli_sae import PROMPT_SET
from tests.registry.synthetic import write_synthetic_registry
from tests.sae import checkpoints as made
from tests.tiny import HOOKPOINTS, make_pipeline


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved pipeline."""
    folder = tmp_path_factory.mktemp("bring-your-own")
    make_pipeline(folder / "tokenizer").save_pretrained(folder / "model")
    return folder / "model"


@pytest.fixture
def root(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty registry's folder with the pipeline in ``models/tiny``; the shipped registry is a synthetic one."""
    monkeypatch.setenv("SAEURON_GUARD_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("SAEURON_GUARD_DATABASE", raising=False)
    (tmp_path / "home").mkdir()
    write_synthetic_registry(tmp_path / "home" / "registry")
    shipped = Path(__file__).parents[2] / "migrations"
    (tmp_path / "home" / "migrations").symlink_to(shipped, target_is_directory=True)
    shutil.copytree(saved, tmp_path / "mine" / "models" / "tiny")
    (tmp_path / "small.yaml").write_text(PROMPT_SET)
    return tmp_path / "mine"


def call(*arguments: object) -> Result:
    """The program's answer."""
    return CliRunner().invoke(program, [str(argument) for argument in arguments])


def add(root: Path, *more: object) -> Result:
    """``registry add-model`` of the pipeline in the registry's folder."""
    manifest = ("--manifest", root / "manifest.yaml")
    return call("registry", "add-model", root / "models" / "tiny", "--name", "tiny", *manifest, *more)


def test_the_whole_way(root: Path) -> None:
    """add-model, sae import, sae score; with the scoring run recorded, the registry builds and lists it all."""
    manifest, tiny = root / "manifest.yaml", root / "models" / "tiny"
    result = add(root, "--steps", 2, "--guidance", 5, "--by", "a person")
    assert result.exit_code == 0, result.output
    assert f"{HOOKPOINTS[0]}  32" in result.stdout
    made.write_saelens(root.parent / "source")
    result = call(
        "sae", "import", root.parent / "source", "--model", "tiny", "--hookpoint", HOOKPOINTS[0],
        "--manifest", manifest, "--name", "theirs", "--format", "json",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    (imported,) = json.loads(result.stdout)
    assert (imported["name"], imported["fvu"]) == ("theirs", None)
    result = call(
        "sae", "score", tiny, "--sae", root / imported["path"], "--prompts", root.parent / "small.yaml",
        "--denoising-steps", 2, "--guidance", 5, "--top", 5, "--out", root / "statistics", "--format", "json",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    (scored,) = json.loads(result.stdout)
    assert scored["hookpoint"] == HOOKPOINTS[0]
    record_run(manifest, Path(scored["file"]))
    with FeatureRegistry.built(manifest=manifest) as registry:
        (sae,) = registry.saes("tiny")
        assert (sae.name, sae.digest, sae.fvu, sae.l0) == ("theirs", imported["digest"], None, None)
        assert sae.provenance["imported_at"]
        assert len(registry.scores("theirs-paper", "bomb")) == 2 * 5
        assert load_pipeline("tiny", registry=registry)


def record_run(manifest: Path, statistics: Path) -> None:
    """Write the concepts and the scoring run into the manifest."""
    with safe_open(statistics, framework="numpy") as stored:
        timesteps = tuple(int(timestep) for timestep in stored.get_tensor("timesteps"))
    path = statistics.relative_to(manifest.parent).as_posix()
    run = ScoringRun("theirs-paper", "theirs", "paper", path, digest_of_file(statistics), timesteps, {})
    concepts = tuple(
        ConceptRecord(name, domain, name, "")
        for domain, names in (("object", ("bomb", "cat")), ("style", ("Neon", "Pixel")))
        for name in names
    )
    write_manifest(dataclasses.replace(load_manifest(manifest), concepts=concepts, scoring_runs=(run,)), manifest)


def test_adding_twice(root: Path) -> None:
    """The same model again changes not one byte; another one under its name needs --replace."""
    assert "registered in" in add(root).stdout
    before = (root / "manifest.yaml").read_bytes()
    again = add(root, "--by", "somebody else")
    assert (again.exit_code, "is registered already, unchanged" in again.stdout) == (0, True)
    assert (root / "manifest.yaml").read_bytes() == before
    other = add(root, "--steps", 3)
    assert other.exit_code == 3
    assert "steps is 50, got 3" in other.stderr
    assert (root / "manifest.yaml").read_bytes() == before
    replaced = add(root, "--steps", 3, "--replace", "--format", "json")
    assert replaced.exit_code == 0, replaced.output
    assert json.loads(replaced.stdout)["steps"] == load_manifest(root / "manifest.yaml").models[0].steps == 3


def test_a_registered_name_keeps_its_settings(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model of another registry is added from where it lies, with the steps and guidance recorded there."""
    assert add(root, "--steps", 7, "--guidance", 3, "--family", "mine").exit_code == 0
    home = root.parent / "home" / "registry"
    shutil.rmtree(home)
    shutil.copytree(root, home)
    result = call("registry", "add-model", "tiny", "--name", "copy", "--manifest", root.parent / "other" / "m.yaml")
    assert result.exit_code == 0, result.output
    (model,) = load_manifest(root.parent / "other" / "m.yaml").models
    assert (model.steps, model.guidance, model.family) == (7, 3.0, "mine")
    assert (model.path, model.files) == (str(home / "models" / "tiny"), {})


def test_a_model_of_the_hub(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its id is recorded with the commit that was downloaded; nothing is pinned, for nothing lies in the registry."""
    commit = "c0ffee" * 6 + "beef"
    snapshot = root.parent / "cache" / "snapshots" / commit
    shutil.copytree(root / "models" / "tiny", snapshot)
    asked: list[tuple[str, bool]] = []

    def download(name: str, *, use_safetensors: bool, **_: object) -> str:
        asked.append((name, use_safetensors))
        return str(snapshot)

    monkeypatch.setattr(diffusers.DiffusionPipeline, "download", download)
    result = call("registry", "add-model", "owner/tiny", "--name", "tiny", "--manifest", root / "manifest.yaml")
    assert result.exit_code == 0, result.output
    assert asked == [("owner/tiny", True)]
    (model,) = load_manifest(root / "manifest.yaml").models
    assert (model.path, model.files) == ("owner/tiny", {})
    assert (model.provenance["source"], model.provenance["revision"]) == ("owner/tiny", commit)


def test_mistakes_write_nothing(root: Path) -> None:
    """No such source, a name with a slash, a broken pipeline: exit codes 3 and 2, a line each, and no manifest."""
    manifest = ("--manifest", root / "manifest.yaml")
    result = call("registry", "add-model", root / "none", "--name", "tiny", *manifest)
    assert (result.exit_code, "no such folder" in result.stderr) == (3, True)
    result = call("registry", "add-model", root / "models" / "tiny", "--name", "a/b", *manifest)
    assert (result.exit_code, "'a/b' is not a name" in result.stderr) == (2, True)
    (root / "models" / "tiny" / "unet" / "config.json").write_text("{}")
    assert add(root).exit_code == 3
    assert not (root / "manifest.yaml").exists()


def test_import_tells_what_it_did(root: Path) -> None:
    """The text names sizes, format, conversion and place; a wrong hookpoint exits with 3 and suggests one."""
    made.write_registry(root)
    made.write_saelens(root.parent / "source", apply_b_dec_to_input=False)
    common = ("sae", "import", root.parent / "source", "--model", "tiny", "--manifest", root / "manifest.yaml")
    result = call(*common, "--hookpoint", made.HOOKPOINT)
    assert result.exit_code == 0, result.output
    assert f"tiny-{made.HOOKPOINT}: model tiny" in result.stdout
    assert "from saelens, topk; fvu, dead latents and l0 unknown" in result.stdout
    assert "  W_enc transposed" in result.stdout
    assert str(root / "saes" / "tiny" / made.HOOKPOINT) in result.stdout
    result = call(*common, "--hookpoint", made.HOOKPOINT + "0")
    assert (result.exit_code, "Did you mean" in result.stderr) == (3, True)


def test_tables_say_unknown(root: Path) -> None:
    """Neither 0 nor None stands where nobody measured."""
    sae = {"name": "theirs", "model": "m", "hookpoint": "h", "variant": "imported", "d_in": 1, "num_latents": 2, "k": 1}
    lines = list(model_tables({"saes": [{**sae, "fvu": None, "dead_share": 0.0, "l0": None}]}))
    assert lines[-1].split()[-3:] == ["unknown", "0", "unknown"]
    assert [unknown_or(value, "{:.3f}") for value in (None, 0.0, 0.25)] == ["unknown", "0.000", "0.250"]
