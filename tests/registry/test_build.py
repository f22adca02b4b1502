from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import Engine

from saeuron_guard.errors import ArtefactError, ManifestError, RegistryError
from saeuron_guard.registry.build import bring_up_to_date
from saeuron_guard.registry.database import reading
from saeuron_guard.registry.store import FeatureRegistry
from tests.registry.synthetic import Synthetic, file_digest, scores, write_statistics, write_synthetic_registry


def edited(path: Path, old: str, new: str) -> None:
    """Replace text of a file."""
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


def test_the_second_opening_builds_nothing(tmp_path: Path) -> None:
    """An unchanged manifest leaves the database file untouched; the first opening made it."""
    manifest = write_synthetic_registry(tmp_path)
    FeatureRegistry.open(manifest=manifest).close()
    database = tmp_path / "registry.sqlite"
    before = (database.read_bytes(), database.stat().st_mtime_ns)
    FeatureRegistry.open(manifest=manifest).close()
    assert (database.read_bytes(), database.stat().st_mtime_ns) == before
    assert sorted(path.name for path in tmp_path.glob("registry.sqlite*")) == ["registry.sqlite"]


def test_a_changed_manifest_rebuilds_the_database(url: str, tmp_path: Path) -> None:
    """The old content is gone, the new one is there, nothing twice."""
    manifest = write_synthetic_registry(tmp_path)
    with FeatureRegistry.built(url, manifest=manifest) as registry:
        assert registry.concept("cat").title == "Cat"
        old = registry.manifest_digest()
    edited(manifest, "title: Cat", "title: Kitten")
    with FeatureRegistry.built(url, manifest=manifest) as registry:
        assert registry.concept("cat").title == "Kitten"
        assert registry.manifest_digest() != old
        assert len(registry.scores("tiny.objects.paper", "cat")) == 3 * 8


def test_tampered_statistics_build_nothing(tmp_path: Path) -> None:
    """The error comes before anything is written, and names both digests."""
    manifest = write_synthetic_registry(tmp_path)
    statistics = tmp_path / "statistics/tiny.objects.paper.safetensors"
    good = statistics.read_bytes()
    statistics.write_bytes(good + b"\0")
    with pytest.raises(ArtefactError, match=r"expected sha256:[0-9a-f]{64}, got sha256:[0-9a-f]{64}"):
        FeatureRegistry.open(manifest=manifest)
    assert not (tmp_path / "registry.sqlite").exists()
    statistics.write_bytes(good)
    FeatureRegistry.open(manifest=manifest).close()


def test_statistics_of_other_timesteps_are_refused(tmp_path: Path) -> None:
    """Manifest and artefact have to say the same about the run."""
    manifest = write_synthetic_registry(tmp_path)
    edited(manifest, "  - 501\n", "  - 500\n")
    with pytest.raises(ArtefactError, match=r"holds the timesteps \[901, 501, 101\], but .* says \[901, 500, 101\]"):
        FeatureRegistry.open(manifest=manifest)


def test_statistics_of_unknown_concepts_are_refused(tmp_path: Path) -> None:
    """A score of a concept that nobody named would never be found again."""
    manifest = write_synthetic_registry(tmp_path)
    path = tmp_path / "statistics/tiny.objects.paper.safetensors"
    old = file_digest(path)
    new = write_statistics(path, scores(Synthetic()), ["pistol", "cat", "Noto", "zebra"])
    edited(manifest, old, new)
    with pytest.raises(ArtefactError, match="scores 'zebra', which is not among the manifest's concepts"):
        FeatureRegistry.open(manifest=manifest)


def test_a_missing_manifest_is_named(tmp_path: Path) -> None:
    """Nothing is built from nothing."""
    with pytest.raises(ManifestError, match=r"manifest\.yaml: there is no manifest"):
        FeatureRegistry.open(manifest=tmp_path / "manifest.yaml")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"this is no database" * 100, b"SQLite format 3\0" + b"\1" * 4096])
def test_a_file_that_is_no_database_is_named(tmp_path: Path, content: bytes) -> None:
    """The message says what to do; doing it helps."""
    manifest = write_synthetic_registry(tmp_path)
    (tmp_path / "registry.sqlite").write_bytes(content)
    with pytest.raises(RegistryError, match=r"registry\.sqlite: .*move it away, and the next command builds a new"):
        FeatureRegistry.open(manifest=manifest)
    (tmp_path / "registry.sqlite").unlink()
    FeatureRegistry.open(manifest=manifest).close()


def test_other_tables_of_a_team_database_survive_a_rebuild(engine: Engine, tmp_path: Path) -> None:
    """Rebuilding replaces rows, not the file: what somebody else keeps there stays."""
    manifest = write_synthetic_registry(tmp_path)
    assert bring_up_to_date(engine, manifest) is True
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE notes (body TEXT)")
        connection.exec_driver_sql("INSERT INTO notes VALUES ('kept')")
    edited(manifest, "title: Cat", "title: Kitten")
    assert bring_up_to_date(engine, manifest) is True
    with reading(engine) as read:
        assert read.exec_driver_sql("SELECT body FROM notes").scalar() == "kept"
    assert bring_up_to_date(engine, manifest) is False
