"""What ``registry check`` finds in a database whose stored digest still is the manifest's."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from saeuron_guard.registry.checks import RegistryCheck, check_registry
from saeuron_guard.registry.database import sqlite_url
from saeuron_guard.registry.recording import record_review
from saeuron_guard.registry.store import FeatureRegistry
from saeuron_guard.registry.transfer import export_manifest
from tests.registry.synthetic import write_synthetic_registry
from tests.registry.trail import ANN, FEATURE, tamper


@pytest.fixture
def registry(url: str, tmp_path: Path) -> Iterator[FeatureRegistry]:
    """A registry as its manifest says."""
    manifest = write_synthetic_registry(tmp_path / "source")
    with FeatureRegistry.open(url, manifest=manifest, stamp=ANN) as opened:
        yield opened


def checked(registry: FeatureRegistry) -> RegistryCheck:
    """The check, without prompt sets."""
    return check_registry(registry, {})


CALIBRATION_OF_CAT = "(SELECT id FROM calibrations WHERE concept_id = (SELECT id FROM concepts WHERE name = 'cat'))"


@pytest.mark.parametrize(
    ("statement", "problem"),
    [
        (
            "UPDATE concepts SET title = 'Dog' WHERE name = 'cat'",
            "concepts: 'cat' differs between the manifest and the database",
        ),
        (
            f"UPDATE calibrations SET figures = '{{}}' WHERE id = {CALIBRATION_OF_CAT}",  # noqa: S608 - our own text
            "calibrations: 'tiny/cat' differs between the manifest and the database",
        ),
        (
            f"UPDATE operating_points SET multiplier = -1 WHERE calibration_id = {CALIBRATION_OF_CAT}",  # noqa: S608 - our own text
            "calibrations: 'tiny/cat' differs between the manifest and the database",
        ),
        ("DELETE FROM judges", "judges: 'tiny-clip' is in the manifest but not in the database"),
        (
            "UPDATE prompt_sets SET name = 'mine' WHERE role = 'audit'",
            "prompt_sets: 'audit/mine' is in the database but not in the manifest",
        ),
        (
            "UPDATE feature_scores SET score = 0.5 WHERE rank = 3 AND timestep = 101",
            "scores of run 'tiny.objects.paper' differ between the database and statistics/tiny.objects.paper",
        ),
        (
            "DELETE FROM feature_scores",
            "scores of run 'tiny.styles.paper' differ between the database and statistics/tiny.styles.paper",
        ),
        ("UPDATE saes SET digest = 'sha256:0' WHERE name = 'tiny.styles'", "saes: 'tiny.styles' differs"),
    ],
)
def test_a_changed_content_table_is_found(registry: FeatureRegistry, statement: str, problem: str) -> None:
    """Row by row against the manifest and the statistics; untouched, nothing is found."""
    before = checked(registry)
    assert (before.passed, before.problems) == (True, ())
    tamper(registry.engine, statement, protected=True)
    after = checked(registry)
    assert not after.passed
    assert any(found.startswith(problem) for found in after.problems), after.problems


def test_a_tampered_chain_fails_the_check(registry: FeatureRegistry) -> None:
    """A payload changed after the trigger was dropped; the untouched chain passes."""
    record_review(registry, FEATURE, "rejected", "fires on toys", ANN)
    assert checked(registry).passed
    tamper(registry.engine, 'UPDATE events SET payload = \'{"verdict":"approved"}\' WHERE seq = 3')
    after = checked(registry)
    assert not after.passed
    assert any(problem.startswith(f"event 3 (review {FEATURE}) was changed: expected") for problem in after.problems)


def test_the_check_names_the_last_event(registry: FeatureRegistry) -> None:
    """Noted down elsewhere, it proves later that nothing was cut off; every change moves it."""
    before = checked(registry).last_event
    record_review(registry, FEATURE, "rejected", "fires on toys", ANN)
    assert before != checked(registry).last_event
    assert before.startswith("sha256:")


def test_reviews_that_are_in_the_database_only_are_a_warning(registry: FeatureRegistry) -> None:
    """Until they are exported; a review that only the manifest has is a problem."""
    record_review(registry, FEATURE, "rejected", "fires on toys", ANN)
    found = checked(registry)
    assert found.passed
    assert found.warnings[0].startswith("1 review is in the database only")
    export_manifest(registry, registry.manifest_path, force=True)
    assert not any("in the database only" in warning for warning in checked(registry).warnings)
    tamper(registry.engine, "DELETE FROM reviews", protected=True)
    missing = f"reviews: that of {FEATURE} by ann at {ANN.when} is not in the database"
    assert missing in checked(registry).problems


def test_what_a_runs_provenance_lacks_is_a_warning(registry: FeatureRegistry, tmp_path: Path) -> None:
    """Each thing that it should name; nothing is lacking when all are there, and the check passes either way."""
    lacking = "steps, scheduler, guidance, dtype, library versions, git revision, who, when"
    found = checked(registry)
    assert found.passed
    assert found.warnings[0] == f"the provenance of scoring run 'tiny.objects.paper' does not name: {lacking}"
    path = registry.manifest_path
    named = (
        "  provenance:\n    steps: 25\n    scheduler: DDIM\n    guidance: 5.0\n    dtype: float32\n"
        "    libraries: {torch: 2.6.0}\n    git_revision: abc\n    by: ann\n    when: '2025-03-01T12:00:00Z'\n"
        "    prompt_set: tiny-anchor\n"
    )
    text = path.read_text(encoding="utf-8").replace("  provenance:\n    prompt_set: tiny-anchor\n", named)
    path.write_text(text, encoding="utf-8")
    other = sqlite_url(tmp_path / "other.sqlite")
    with FeatureRegistry.open(other, manifest=path, stamp=ANN) as complete:
        assert checked(complete).warnings == ()
