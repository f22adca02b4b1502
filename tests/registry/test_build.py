from __future__ import annotations

import multiprocessing
import os
import sqlite3
from pathlib import Path

import pytest
from sqlalchemy import Engine

from saeuron_guard.errors import ArtefactError, ManifestError, RegistryError
from saeuron_guard.registry import build
from saeuron_guard.registry.build import bring_up_to_date
from saeuron_guard.registry.database import engine_for, reading, sqlite_url
from saeuron_guard.registry.store import FeatureRegistry
from tests.registry.synthetic import Synthetic, file_digest, scores, write_statistics, write_synthetic_registry

SPAWN = multiprocessing.get_context("spawn")


def edited(path: Path, old: str, new: str) -> None:
    """Replace text of a file."""
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


def open_and_count(manifest: str, gate: object, results: object) -> None:
    """Body of a process: wait for the others, open, count."""
    gate.wait()  # type: ignore[attr-defined]
    with FeatureRegistry.open(manifest=Path(manifest)) as registry:
        results.put(len(registry.scores("tiny.objects.paper", "pistol")))  # type: ignore[attr-defined]


def die_while_filling(manifest: str) -> None:
    """Body of a process: killed after the tables were filled, before the transaction ends."""
    build._sign = lambda *_: os._exit(9)
    FeatureRegistry.open(manifest=Path(manifest))


def test_the_second_opening_builds_nothing(tmp_path: Path) -> None:
    """An unchanged manifest leaves the database file untouched; the first opening made it."""
    manifest = write_synthetic_registry(tmp_path)
    FeatureRegistry.open(manifest=manifest).close()
    database = tmp_path / "registry.sqlite"
    before = (database.read_bytes(), database.stat().st_mtime_ns)
    FeatureRegistry.open(manifest=manifest).close()
    assert (database.read_bytes(), database.stat().st_mtime_ns) == before
    assert sorted(path.name for path in tmp_path.glob("registry.sqlite*")) == ["registry.sqlite"]


def test_a_changed_manifest_rebuilds_the_database(tmp_path: Path) -> None:
    """The old content is gone, the new one is there, nothing twice."""
    manifest = write_synthetic_registry(tmp_path)
    with FeatureRegistry.open(manifest=manifest) as registry:
        assert registry.concept("cat").title == "Cat"
        old = registry.manifest_digest()
    edited(manifest, "title: Cat", "title: Kitten")
    with FeatureRegistry.open(manifest=manifest) as registry:
        assert registry.concept("cat").title == "Kitten"
        assert registry.manifest_digest() != old
        assert len(registry.scores("tiny.objects.paper", "cat")) == 3 * 8


def test_processes_that_open_at_once_all_succeed(tmp_path: Path) -> None:
    """Three first openings at the same moment: one builds, the others wait, all read the same."""
    manifest = write_synthetic_registry(tmp_path)
    gate, results = SPAWN.Barrier(3), SPAWN.Queue()
    processes = [SPAWN.Process(target=open_and_count, args=(str(manifest), gate, results)) for _ in range(3)]
    for process in processes:
        process.start()
    counts = [results.get(timeout=60) for _ in processes]
    for process in processes:
        process.join()
    assert counts == [24, 24, 24]
    assert [process.exitcode for process in processes] == [0, 0, 0]


def test_a_killed_build_breaks_nothing(tmp_path: Path) -> None:
    """After a first build was killed the next opening builds; after a rebuild was killed the old content stays."""
    manifest = write_synthetic_registry(tmp_path)
    kill(manifest)
    with FeatureRegistry.open(manifest=manifest) as registry:
        assert registry.concept("cat").title == "Cat"
    edited(manifest, "title: Cat", "title: Kitten")
    kill(manifest)
    with FeatureRegistry.open(sqlite_url(tmp_path / "registry.sqlite")) as registry:
        assert registry.concept("cat").title == "Cat"
    with FeatureRegistry.open(manifest=manifest) as registry:
        assert registry.concept("cat").title == "Kitten"


def kill(manifest: Path) -> None:
    """Open the registry in a process that dies before it is done."""
    process = SPAWN.Process(target=die_while_filling, args=(str(manifest),))
    process.start()
    process.join()
    assert process.exitcode == 9


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


def test_other_tables_of_a_team_database_survive_a_rebuild(tmp_path: Path) -> None:
    """Rebuilding replaces rows, not the file: what somebody else keeps there stays."""
    manifest = write_synthetic_registry(tmp_path)
    FeatureRegistry.open(manifest=manifest).close()
    with sqlite3.connect(tmp_path / "registry.sqlite") as connection:
        connection.execute("CREATE TABLE notes (text)")
        connection.execute("INSERT INTO notes VALUES ('kept')")
    connection.close()
    edited(manifest, "title: Cat", "title: Kitten")
    FeatureRegistry.open(manifest=manifest).close()
    engine: Engine = engine_for(sqlite_url(tmp_path / "registry.sqlite"))
    with reading(engine) as read:
        assert read.exec_driver_sql("SELECT text FROM notes").scalar() == "kept"
    assert bring_up_to_date(engine, manifest) is False
