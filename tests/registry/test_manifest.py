from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saeuron_guard.errors import ManifestError
from saeuron_guard.registry.manifest import load_manifest, write_manifest
from tests.registry.synthetic import write_synthetic_registry


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A valid manifest."""
    return write_synthetic_registry(tmp_path)


def problems_after(path: Path, *replacements: tuple[str, str]) -> list[str]:
    """Edit a valid manifest; the problems, without the file's name."""
    text = path.read_text(encoding="utf-8")
    for old, new in replacements:
        assert old in text
        text = text.replace(old, new, 1)
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ManifestError) as caught:
        load_manifest(path)
    return [str(problem).removeprefix(f"{path}:") for problem in caught.value.problems]


def place_of(path: Path, text: str) -> str:
    """``line:column`` of the first occurrence of ``text``."""
    before = path.read_text(encoding="utf-8").split(text, 1)[0]
    return f"{before.count(chr(10)) + 1}:{len(before) - before.rfind(chr(10))}"


def test_a_valid_manifest_becomes_records(path: Path) -> None:
    """Every list of the file arrives, with numbers and tuples as the records promise."""
    manifest = load_manifest(path)
    assert [concept.name for concept in manifest.concepts] == ["Neon", "Noto", "cat", "pistol"]
    assert manifest.scoring_runs[0].timesteps == (901, 501, 101)
    assert isinstance(manifest.models[0].guidance, float)
    assert manifest.model_of(manifest.calibrations[0]) == "tiny"
    assert manifest.judges[0].labels["style"] == ("Noto", "Neon")


def test_writing_and_loading_gives_the_same_manifest(path: Path, tmp_path: Path) -> None:
    """load(write(m)) == m, and equal manifests are equal files."""
    manifest = load_manifest(path)
    write_manifest(manifest, tmp_path / "second.yaml")
    again = load_manifest(tmp_path / "second.yaml")
    write_manifest(again, tmp_path / "third.yaml")
    assert again == manifest
    assert (tmp_path / "third.yaml").read_bytes() == (tmp_path / "second.yaml").read_bytes()


def test_the_order_of_records_does_not_change_the_file(path: Path, tmp_path: Path) -> None:
    """A manifest is sorted whatever order it was gathered in."""
    manifest = load_manifest(path)
    reversed_parts = {
        field.name: tuple(reversed(getattr(manifest, field.name))) for field in dataclasses.fields(manifest)
    }
    assert dataclasses.replace(manifest, **reversed_parts) == manifest
    assert dataclasses.replace(manifest, concepts=manifest.concepts[1:]) != manifest


def test_long_fractions_are_rounded_once(path: Path, tmp_path: Path) -> None:
    """Figures are written with six significant digits, and writing them again changes nothing."""
    manifest = load_manifest(path)
    figures = {"ua": 1 / 3, "large": 1234567.8, "tiny": -1e-30}
    rounded = dataclasses.replace(manifest.calibrations[0], figures=figures)
    write_manifest(dataclasses.replace(manifest, calibrations=(rounded,)), tmp_path / "second.yaml")
    read = load_manifest(tmp_path / "second.yaml")
    assert read.calibrations[0].figures == {"ua": 0.333333, "large": 1234570.0, "tiny": -1e-30}
    write_manifest(read, tmp_path / "third.yaml")
    assert (tmp_path / "third.yaml").read_bytes() == (tmp_path / "second.yaml").read_bytes()


@given(
    value=st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-(10**12), 10**12)
        | st.text(st.characters(codec="utf-8", categories=["L", "N", "P", "S", "Zs"]))
        | st.sampled_from(
            ["no", "1e5", "0x1f", "123e4567", "1_000", "12:30", "null", "~", ".5", "<<", "2025-01-31", "y"]
        ),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab-:#", min_size=1), inner, max_size=3),
        max_leaves=6,
    )
)
def test_any_provenance_survives(value: object, tmp_path_factory: pytest.TempPathFactory) -> None:
    """What reads differently in YAML 1.1, 1.2 and JSON is quoted, so the strict reader gets what was written."""
    folder = tmp_path_factory.mktemp("provenance")
    manifest = load_manifest(write_synthetic_registry(folder))
    noted = dataclasses.replace(manifest.saes[0], provenance={"note": value})
    changed = dataclasses.replace(manifest, saes=(noted, manifest.saes[1]))
    write_manifest(changed, folder / "second.yaml")
    assert load_manifest(folder / "second.yaml") == changed


def test_an_inconsistent_manifest_is_not_written(path: Path) -> None:
    """The old file stays, byte for byte, and no draft is left beside it."""
    before, files = path.read_bytes(), sorted(path.parent.iterdir())
    manifest = load_manifest(path)
    with pytest.raises(ManifestError, match=r"'tiny\.objects' .* is not among saes"):
        write_manifest(dataclasses.replace(manifest, saes=manifest.saes[1:]), path)
    assert path.read_bytes() == before
    assert sorted(path.parent.iterdir()) == files


def test_all_problems_are_reported_with_their_places(path: Path) -> None:
    """Mistakes in different lists come together, each with line and column."""
    places = [place_of(path, "dead_share"), place_of(path, "0.125"), place_of(path, "anchor\n  model")]
    found = problems_after(
        path, ("fvu: 0.125", "fvu: high"), ("role: anchor", "role: ancor"), ("dead_share:", "dead_shares:")
    )
    assert f"{places[0]}: unknown key 'dead_shares' (saes[0].dead_shares). Did you mean 'dead_share'?" in found
    assert f"{places[1]}: expected a number, 0 or more, got text 'high' (saes[0].fvu)" in found
    assert any(problem.startswith(places[2]) and "Did you mean 'anchor'?" in problem for problem in found)


@pytest.mark.parametrize(
    ("replacement", "expected"),
    [
        (
            ("concept: pistol", "concept: pistl"),
            r"'pistl' \(calibrations\[0\].concept\) is not among concepts. Did you",
        ),
        (("name: cat", "name: pistol"), r"'pistol' is given twice, first as concepts\[0\]; keep one"),
        (("role: calibration\n  model: tiny", "role: calibration\n  model: tinny"), "'tinny' .* not among models"),
        (("run: tiny.objects.paper", "run: tiny.styles.paper"), "run 'tiny.styles.paper' scored 'tiny.styles', not"),
        (("  - 901\n  - 501", "  - 501\n  - 901"), "timesteps count down: write the largest first"),
        (("k: 4", "k: 65"), "expected at most num_latents = 64, got 65"),
        (("features: 3", "features: 65"), "expected at most num_latents = 64, got 65"),
        (("digest: sha256:", "digest: sha1:"), "expected sha256: and 64 lower-case hexadecimal digits"),
        (("statistics_path: stat", "statistics_path: /stat"), "expected a path below the registry folder"),
        (("    object:\n    - pistol", "    object:\n    - Noto"), "'Noto' is of domain 'style', not 'object'"),
        (("kind: Registry", "kind: Policy"), "expected kind 'Registry', got 'Policy'"),
        (("apiVersion: saeuron-guard/v1", "apiVersion: saeuron-guard/v9"), "unknown apiVersion 'saeuron-guard/v9'"),
    ],
)
def test_a_contradiction_is_named(path: Path, replacement: tuple[str, str], expected: str) -> None:
    """Each way in which entries can disagree has its sentence."""
    assert load_manifest(path)
    found = problems_after(path, replacement)
    assert any(re.search(expected, problem) for problem in found), found
    assert all(re.match(r"\d+:\d+: ", problem) for problem in found)
