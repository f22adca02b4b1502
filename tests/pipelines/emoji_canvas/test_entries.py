"""The manifest says of EmojiCanvas what the build left, and forgets a calibration when its scores have changed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from saeuron_guard.digests import digest_of_file
from saeuron_guard.pipelines.emoji_canvas.entries import sae_name, write_entries
from saeuron_guard.pipelines.emoji_canvas.workspace import HOOKPOINTS, Workspace
from saeuron_guard.pipelines.emoji_canvas.world import GROUPS, ICON_SETS, OBJECT_NAMES, STYLE_NAMES
from saeuron_guard.pipelines.fingerprint import fingerprint
from saeuron_guard.prompts.load import find_prompt_set
from saeuron_guard.registry.manifest import load_manifest, write_manifest
from saeuron_guard.registry.records import Calibration, OperatingPoint
from tests.tiny import make_pipeline

FIRST, SECOND = (sae_name(short) for short in HOOKPOINTS)


def write_statistics(space: Workspace, hookpoint: str, method: str, timesteps: tuple[int, ...] = (901, 501, 1)) -> Path:
    """A statistics artefact of one method, as far as the manifest looks into it."""
    path = space.statistics / f"{hookpoint}.{method}.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    provenance = {"method": method, "domains": {"object": ["cat"]}, "seeds": [21, 22]}
    tensors = {"timesteps": np.array(timesteps, dtype=np.int64)}
    save_file(tensors, path, metadata={"provenance": json.dumps(provenance)})
    return path


@pytest.fixture(scope="module")
def fingerprint_and_files(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A tiny pipeline in a folder, and its fingerprint."""
    folder = tmp_path_factory.mktemp("tiny")
    pipe = make_pipeline(folder / "tokenizer-source")
    pipe.save_pretrained(folder / "pipeline")
    return fingerprint(pipe), folder / "pipeline"


@pytest.fixture
def space(fingerprint_and_files: tuple[str, Path], tmp_path: Path) -> Workspace:
    """A workspace in which all stages up to the scores have left their files."""
    made = Workspace(tmp_path / "work", tmp_path / "registry", lambda line: None)
    made.model.parent.mkdir(parents=True)
    made.model.symlink_to(fingerprint_and_files[1], target_is_directory=True)
    for folder in (made.classifiers / "object", made.classifiers / "style", made.clip):
        folder.mkdir(parents=True)
        (folder / "config.json").write_text("{}", encoding="utf-8")
        (folder / "model.safetensors").write_bytes(folder.name.encode())
    for number, hookpoint in enumerate(HOOKPOINTS.values()):
        folder = made.saes / hookpoint
        folder.mkdir(parents=True)
        (folder / "sae.safetensors").write_bytes(hookpoint.encode())
        config: dict[str, Any] = {
            "d_in": 128, "num_latents": 512, "k": 32 + number, "variant": "supervised", "run": "sha256:run",
            "held_out": {"fvu": 0.1 + number / 100, "dead_share": 0.0, "l0": 30.0, "positions": 1000},
            "trained_with": {"steps": 1}, "provenance": {"seed": number},
        }  # fmt: skip
        (folder / "cfg.json").write_text(json.dumps(config), encoding="utf-8")
        for method in ("mean", "paper"):
            write_statistics(made, hookpoint, method)
    return made


def test_everything_that_was_built_is_described(space: Workspace, fingerprint_and_files: tuple[str, Path]) -> None:
    """The model by its fingerprint and files, both SAEs with their figures, all concepts, prompt sets, runs, judges."""
    write_entries(space)
    found = load_manifest(space.registry / "manifest.yaml")
    (model,) = found.models
    assert (model.name, model.fingerprint) == ("emoji-canvas", fingerprint_and_files[0])
    assert (model.path, model.resolution, model.steps, model.guidance) == ("models/emoji-canvas", 64, 25, 5.0)
    assert [(sae.name, sae.hookpoint, sae.k, sae.fvu) for sae in found.saes] == [
        ("emoji-canvas-up1-attn1", "unet.up_blocks.1.attentions.1", 32, 0.1),
        ("emoji-canvas-up1-attn2", "unet.up_blocks.1.attentions.2", 33, 0.11),
    ]
    assert {concept.name: concept.domain for concept in found.concepts} == dict.fromkeys(
        (*OBJECT_NAMES, *GROUPS), "object"
    ) | dict.fromkeys(STYLE_NAMES, "style")
    assert {(concept.parent, concept.name) for concept in found.concepts if concept.parent} == {
        (group, name) for group, members in GROUPS.items() for name in members
    }
    assert model.hookpoints == {sae.hookpoint: sae.d_in for sae in found.saes}
    assert [run.name for run in found.scoring_runs] == [
        f"{sae}-{method}" for sae in (FIRST, SECOND) for method in ("mean", "paper")
    ]
    assert {(judge.kind, judge.role) for judge in found.judges} == {("clip", "audit"), ("classifier", "calibration")}
    assert found.calibrations == ()


def test_all_files_are_pinned_by_their_digests(space: Workspace) -> None:
    """Each path leads from the registry's folder to a file with the digest beside it; figures alone are left out."""
    (space.model / "figures.json").write_text("{}", encoding="utf-8")
    try:
        write_entries(space)
    finally:
        (space.model / "figures.json").unlink()
    found = load_manifest(space.registry / "manifest.yaml")
    pinned = {f"{sae.path}/sae.safetensors": sae.digest for sae in found.saes}
    pinned |= {run.statistics_path: run.statistics_digest for run in found.scoring_runs}
    for model in found.models:
        pinned |= {f"{model.path}/{name}": digest for name, digest in model.files.items()}
    for judge in found.judges:
        pinned |= {f"{judge.path}/{name}": digest for name, digest in judge.files.items()}
    assert {path: digest_of_file(space.registry / path) for path in pinned} == pinned
    (model,) = found.models
    shipped = {path.relative_to(space.model).as_posix() for path in space.model.rglob("*") if path.is_file()}
    assert "unet/diffusion_pytorch_model.safetensors" in shipped
    assert set(model.files) == shipped
    assert sum(len(judge.files) for judge in found.judges) == 6


def test_scores_and_sources_are_told(space: Workspace) -> None:
    """Runs keep their timesteps and provenance, prompt sets their digests, the model its artwork and all licences."""
    write_statistics(space, HOOKPOINTS["up1-attn1"], "paper", (801, 401))
    write_entries(space)
    found = load_manifest(space.registry / "manifest.yaml")
    runs = {run.name: run for run in found.scoring_runs}
    assert runs[f"{FIRST}-paper"].timesteps == (801, 401)
    assert runs[f"{FIRST}-mean"].timesteps == (901, 501, 1)
    assert (runs[f"{FIRST}-paper"].sae, runs[f"{FIRST}-paper"].method) == (FIRST, "paper")
    assert runs[f"{FIRST}-paper"].provenance == {"method": "paper", "seeds": [21, 22]}
    assert {(record.role, record.name) for record in found.prompt_sets} == {
        ("anchor", "emoji-canvas"),
        ("calibration", "emoji-canvas"),
        ("audit", "emoji-canvas"),
        ("audit", "emoji-canvas-held-out"),
    }
    for record in found.prompt_sets:
        assert record.digest == find_prompt_set(f"{record.role}/{record.name}").digest
    (model,) = found.models
    artwork: Any = model.provenance["artwork"]
    for icon_set in ICON_SETS.values():
        assert icon_set.licence in model.licence
        assert artwork[icon_set.package]["sha256"] == icon_set.sha256


def calibration(concept: str, *runs: str) -> Calibration:
    """A calibration that uses the given runs."""
    points = tuple(OperatingPoint(run.rpartition("-")[0], run, 2, -4.0) for run in runs)
    return Calibration(concept, points, {"ua": 0.9}, {"seeds": [1]})


def test_calibrations_stay_as_long_as_their_scores(space: Workspace) -> None:
    """Written again, the manifest keeps all calibrations; with a run's scores changed it drops those that use it."""
    path = space.registry / "manifest.yaml"
    write_entries(space)
    calibrations = (
        calibration("cat", f"{FIRST}-paper"),
        calibration("dog", f"{SECOND}-paper"),
        calibration("Neon", f"{FIRST}-paper", f"{SECOND}-paper"),
        calibration("pig", f"{FIRST}-mean"),
    )
    write_manifest(replace(load_manifest(path), calibrations=calibrations), path)
    before = path.read_bytes()
    write_entries(space)
    assert path.read_bytes() == before
    assert {each.concept for each in load_manifest(path).calibrations} == {"cat", "dog", "Neon", "pig"}
    write_statistics(space, HOOKPOINTS["up1-attn1"], "paper", (801, 401))
    write_entries(space)
    assert {each.concept for each in load_manifest(path).calibrations} == {"dog", "pig"}
    (space.statistics / f"{HOOKPOINTS['up1-attn1']}.mean.safetensors").unlink()
    write_entries(space)
    assert {each.concept for each in load_manifest(path).calibrations} == {"dog"}
