from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from saeuron_guard.registry.checks import check_registry
from saeuron_guard.registry.pages import concept_overview, concept_page, feature_page
from saeuron_guard.registry.store import FeatureRegistry
from tests.registry.synthetic import SHARED_FEATURE, Synthetic, run_name, sae_name, write_synthetic_registry


@pytest.fixture
def registry(tmp_path: Path, url: str) -> Iterator[FeatureRegistry]:
    """A registry in which cat is not calibrated, on either database."""
    manifest = write_synthetic_registry(tmp_path, Synthetic(uncalibrated=("cat",)))
    with FeatureRegistry.built(url, manifest=manifest) as opened:
        yield opened


def test_a_concepts_page_shows_what_calibration_chose(registry: FeatureRegistry) -> None:
    """The run that the operating point rests on shows its chosen features and when; another run shows its best."""
    page = concept_page(registry, "pistol", features=5)
    assert [model.model for model in page.calibrations] == ["tiny"]
    runs = {run.run: run for run in page.runs}
    chosen, other = runs[run_name("object")], runs[run_name("style")]
    assert chosen.point is not None
    assert [feature.feature for feature in chosen.features] == [
        f"{sae_name('object')}:{index}" for index in (0, 1, SHARED_FEATURE)
    ]
    assert {feature.chosen_at for feature in chosen.features} == {(901, 501, 101)}
    assert [feature.best_rank for feature in chosen.features] == [0, 1, 2]
    assert other.point is None
    assert len(other.features) == 5
    assert {feature.chosen_at for feature in other.features} == {()}


def test_a_concept_that_nobody_calibrated_has_scores_all_the_same(registry: FeatureRegistry) -> None:
    """No operating points, but the best features of each run."""
    page = concept_page(registry, "cat", features=2)
    assert page.calibrations == ()
    assert [len(run.features) for run in page.runs] == [2, 2]


def test_a_features_page_puts_those_that_edit_it_first(registry: FeatureRegistry) -> None:
    """The shared feature is chosen for pistol only: cat is not calibrated, and styles are calibrated elsewhere."""
    page = feature_page(registry, f"{sae_name('object')}:{SHARED_FEATURE}")
    assert [use.concept for use in page.uses if use.summary.chosen_at] == ["pistol"]
    assert page.uses[0].concept == "pistol"
    assert {use.concept for use in page.uses} == set(Synthetic().concepts)
    assert page.uses[0].summary.at == 901


def test_the_overview_lists_every_concept(registry: FeatureRegistry) -> None:
    """Calibrated or not, sorted by domain and name; one domain when asked."""
    overview = concept_overview(registry)
    assert [(page.concept.name, len(page.calibrations)) for page in overview] == [
        ("cat", 0),
        ("pistol", 1),
        ("Neon", 1),
        ("Noto", 1),
    ]
    assert [page.concept.name for page in concept_overview(registry, "style")] == ["Neon", "Noto"]


def test_a_check_compares_files_prompt_sets_and_database(registry: FeatureRegistry, tmp_path: Path) -> None:
    """All is well at first; then one of each is changed and found."""
    same = {("audit", "tiny-audit"): "sha256:" + "3" * 64}
    assert check_registry(registry, same).passed
    assert check_registry(registry, {}).problems == ()
    other = check_registry(registry, {("audit", "tiny-audit"): "sha256:" + "4" * 64})
    assert not other.passed
    assert "audit prompt set 'tiny-audit': expected sha256:333" in other.problems[0]
    (tmp_path / "models/tiny/model_index.json").write_text("{}")
    tampered = check_registry(registry, same)
    assert [check.owner for check in tampered.artefacts if not check.passed] == ["tiny"]
    manifest = tmp_path / "manifest.yaml"
    manifest.write_text(manifest.read_text() + "# a remark\n")
    assert "the database holds manifest" in check_registry(registry, same).problems[0]
