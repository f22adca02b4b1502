"""Calibrations on disk: what is written is read, and the manifest gets what was found and keeps the rest."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from saeuron_guard.discovery.calibration_files import merge_into_manifest, read_calibration, write_calibration
from saeuron_guard.errors import ArtefactError, ManifestError
from saeuron_guard.registry.manifest import Manifest, load_manifest, write_manifest
from saeuron_guard.registry.records import Calibration, OperatingPoint
from tests.registry.synthetic import Synthetic, run_name, sae_name, write_synthetic_registry

FOUND = Calibration(
    "pistol",
    (
        OperatingPoint(sae_name("object"), run_name("object"), 8, -16.0),
        OperatingPoint(sae_name("style"), run_name("style"), 8, -16.0),
    ),
    {"ua": 1.0, "n_target": 30.0, "ira": 1 / 3},
    {"seeds": [1, 2], "judge": {"name": "judge", "digest": "sha256:" + "0" * 64}},
)


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """A manifest with calibrations of pistol, Noto and Neon, and none of cat."""
    return write_synthetic_registry(tmp_path / "registry", Synthetic(uncalibrated=("cat",)))


@pytest.mark.parametrize("concept", ["pistol", "Fluent 3D", "v1.5"])
def test_what_is_written_is_read(tmp_path: Path, concept: str) -> None:
    """A calibration comes back equal, from a file with its concept's name in a folder that is made if missing."""
    found = replace(FOUND, concept=concept)
    path = write_calibration(found, tmp_path / "new" / "folder")
    assert path == tmp_path / "new" / "folder" / f"{concept}.json"
    assert read_calibration(path) == found
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def test_a_run_killed_while_writing_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What dies before the last step leaves what was there before; what does not die replaces it."""
    path = write_calibration(FOUND, tmp_path)
    newer = replace(FOUND, figures={"ua": 0.5})

    def die(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", die)
        with pytest.raises(KeyboardInterrupt):
            write_calibration(newer, tmp_path)
    assert read_calibration(path) == FOUND
    write_calibration(newer, tmp_path)
    assert read_calibration(path) == newer


def without(*keys: str | int) -> Callable[[Any], str]:
    """Takes away what lies at ``keys``."""

    def change(document: Any) -> str:
        inner = document
        for key in keys[:-1]:
            inner = inner[key]
        del inner[keys[-1]]
        return json.dumps(document)

    return change


def with_value(key: str, value: Any) -> Callable[[Any], str]:
    """Puts ``value`` at ``key``."""
    return lambda document: json.dumps(document | {key: value})


MALFORMED: dict[str, Callable[[Any], str]] = {
    "empty": lambda _: "",
    "half": lambda document: json.dumps(document)[:100],
    "a list": lambda document: json.dumps([document]),
    "a number": lambda _: "1",
    "no concept": without("concept"),
    "no points": without("points"),
    "no figures": without("figures"),
    "no provenance": without("provenance"),
    "a point without its run": without("points", 1, "run"),
    "a point with a field too many": lambda document: json.dumps(document).replace('"run"', '"more": 1, "run"'),
    "a point that is text": with_value("points", ["tiny.objects"]),
    "points that are a number": with_value("points", 3),
}


@pytest.mark.parametrize("change", MALFORMED.values(), ids=MALFORMED.keys())
def test_a_malformed_file_is_an_artefact_error_that_names_it(tmp_path: Path, change: Callable[[Any], str]) -> None:
    """The message has the path and what to do; unchanged, the same file is read."""
    path = write_calibration(FOUND, tmp_path)
    assert read_calibration(path) == FOUND
    path.write_text(change(json.loads(path.read_text(encoding="utf-8"))), encoding="utf-8")
    with pytest.raises(ArtefactError) as caught:
        read_calibration(path)
    assert str(caught.value).startswith(f"{path}: not a calibration (")
    assert "remove it and calibrate the concept anew" in str(caught.value)


WRONG_TYPES = [
    pytest.param(with_value("figures", [1.0]), id="figures that are a list"),
    pytest.param(with_value("provenance", "a run"), id="provenance that is text"),
    pytest.param(with_value("concept", 3), id="a concept that is a number"),
    pytest.param(with_value("points", []), id="points that are none"),
    pytest.param(
        lambda document: json.dumps(document).replace('"features": 8', '"features": "many"'),
        id="features that are text",
    ),
    pytest.param(lambda _: "[" * 100_000, id="brackets without an end"),
]


@pytest.mark.parametrize("change", WRONG_TYPES)
def test_a_file_with_something_else_in_its_fields_is_an_artefact_error(
    tmp_path: Path, change: Callable[[Any], str]
) -> None:
    """What is no calibration is refused where it is read, with the file's name, and not later without it."""
    path = write_calibration(FOUND, tmp_path)
    path.write_text(change(json.loads(path.read_text(encoding="utf-8"))), encoding="utf-8")
    with pytest.raises(ArtefactError, match="not a calibration"):
        read_calibration(path)


def test_files_that_cannot_be_read_are_artefact_errors(tmp_path: Path) -> None:
    """Neither a missing file, nor a folder, nor bytes that are no text come through as another error."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\x00")
    for name in ("missing", "folder", "bytes"):
        with pytest.raises(ArtefactError, match=name):
            read_calibration(tmp_path / name)


def by_concept(manifest: Manifest) -> dict[str, Calibration]:
    """The calibrations of a manifest."""
    return {calibration.concept: calibration for calibration in manifest.calibrations}


def test_merging_replaces_the_same_concept_adds_new_ones_and_keeps_the_others(manifest: Path) -> None:
    """Everything of the manifest but the merged concepts' calibrations is as it was."""
    before = load_manifest(manifest)
    rounded = replace(FOUND, figures=FOUND.figures | {"ira": 0.333333})  # a manifest's floats have six digits
    merge_into_manifest([rounded, replace(rounded, concept="cat")], manifest)
    after = load_manifest(manifest)
    assert set(by_concept(before)) == {"pistol", "Noto", "Neon"}
    assert by_concept(before)["pistol"] != rounded
    assert by_concept(after) == by_concept(before) | {"pistol": rounded, "cat": replace(rounded, concept="cat")}
    assert replace(after, calibrations=()) == replace(before, calibrations=())


def test_merging_again_or_nothing_changes_no_byte(manifest: Path) -> None:
    """The order of the calibrations does not matter either."""
    two = [FOUND, replace(FOUND, concept="cat")]
    merge_into_manifest(two, manifest)
    text = manifest.read_bytes()
    merge_into_manifest(two[::-1], manifest)
    merge_into_manifest([], manifest)
    assert manifest.read_bytes() == text
    merge_into_manifest([replace(FOUND, figures={"ua": 0.5})], manifest)
    assert manifest.read_bytes() != text


def test_another_models_calibration_of_the_concept_is_kept(manifest: Path) -> None:
    """A concept has one calibration a model: the other model's stays when one is replaced."""
    before = load_manifest(manifest)
    other = [replace(before.models[0], name="other")]
    sae = replace(before.saes[0], name="other.objects", model="other")
    run = replace(before.scoring_runs[0], name="other.objects.paper", sae=sae.name)
    theirs = replace(FOUND, points=(OperatingPoint(sae.name, run.name, 2, -1.0),), figures={"ua": 1.0})
    both = replace(
        before,
        models=(*before.models, *other),
        saes=(*before.saes, sae),
        scoring_runs=(*before.scoring_runs, run),
        calibrations=(*before.calibrations, theirs),
    )
    write_manifest(both, manifest)
    mine = replace(FOUND, figures={"ua": 0.5})
    merge_into_manifest([mine], manifest)
    after = load_manifest(manifest)
    assert [each for each in after.calibrations if each.concept == "pistol"] == [theirs, mine]
    merge_into_manifest([replace(theirs, figures={"ua": 0.25})], manifest)
    figures = [each.figures for each in load_manifest(manifest).calibrations if each.concept == "pistol"]
    assert figures == [{"ua": 0.25}, {"ua": 0.5}]


def test_a_calibration_of_something_unknown_leaves_the_manifest_alone(manifest: Path) -> None:
    """An unknown concept or SAE is refused by the manifest's own check, and no byte changes; known ones are merged."""
    text = manifest.read_bytes()
    unknown_sae = replace(FOUND, points=(OperatingPoint("tiny.shapes", run_name("object"), 2, -1.0),))
    for stranger, name in ((replace(FOUND, concept="dragon"), "dragon"), (unknown_sae, "tiny.shapes")):
        with pytest.raises(ManifestError, match=name):
            merge_into_manifest([stranger], manifest)
        assert manifest.read_bytes() == text
    merge_into_manifest([FOUND], manifest)
    assert manifest.read_bytes() != text


def test_a_calibration_goes_from_its_file_into_the_manifest(tmp_path: Path, manifest: Path) -> None:
    """What was kept on disk while others were being found is what the manifest says in the end."""
    path = write_calibration(FOUND, tmp_path)
    merge_into_manifest([read_calibration(path)], manifest)
    found = by_concept(load_manifest(manifest))["pistol"]
    assert found.points == FOUND.points
    assert found.figures == pytest.approx(FOUND.figures, rel=1e-5)
    assert found.provenance == FOUND.provenance
    assert asdict(found).keys() == asdict(FOUND).keys()
