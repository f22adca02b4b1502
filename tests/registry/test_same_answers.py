"""SQLite and PostgreSQL give the same answers, bit for bit, whatever stands in the manifest."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from saeuron_guard.registry.database import sqlite_url
from saeuron_guard.registry.manifest import load_manifest
from saeuron_guard.registry.pages import concept_overview, concept_page, feature_page
from saeuron_guard.registry.store import FeatureRegistry
from tests.registry.postgresql_server import PostgresqlServer
from tests.registry.synthetic import (
    MODEL,
    SHARED_FEATURE,
    Synthetic,
    run_name,
    sae_name,
    scores,
    write_statistics,
    write_synthetic_registry,
)

AWKWARD = "100 % of 'Zoë' \"née\" \\ %s %(x)s %% :name {x} 模型 🙂"
FLOATS = (0.1 + 0.2, 5e-324, 1.7976931348623157e308, 1 / 3, -0.0, 2**53 + 2.0)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registry whose texts and figures are hard to store."""
    folder = tmp_path_factory.mktemp("awkward")
    manifest = write_synthetic_registry(folder)
    document: dict[str, Any] = yaml.safe_load(manifest.read_text(encoding="utf-8"))
    statistics = folder / "statistics" / f"{run_name('object')}.safetensors"
    digest = write_statistics(statistics, awkward_scores(), list(Synthetic().concepts))
    document["scoring_runs"][0]["statistics_digest"] = digest
    model, concept, calibration = document["models"][0], document["concepts"][0], document["calibrations"][0]
    model |= {"licence": AWKWARD, "guidance": FLOATS[0], "path": f"models/{AWKWARD}"}
    model["provenance"] = {AWKWARD: [AWKWARD, list(FLOATS), {"big": 2**53 - 1, "none": None, "yes": True}]}
    concept |= {"title": AWKWARD, "description": f"{AWKWARD}\n{AWKWARD}"}
    document["saes"][0] |= {"fvu": FLOATS[1], "dead_share": FLOATS[3], "l0": FLOATS[2]}
    calibration["points"][0]["multiplier"] = -1 / 3
    calibration["figures"] = {AWKWARD: FLOATS[1], "ua": FLOATS[0]}
    manifest.write_text(yaml.safe_dump(document, sort_keys=False, allow_unicode=True), encoding="utf-8")
    return manifest


def awkward_scores() -> dict[str, Any]:
    """Statistics in double precision, with subnormal numbers and with neighbours that differ in the last bit."""
    tensors = scores(Synthetic())
    random = np.random.default_rng(7)
    shape = tensors["score"].shape
    score = np.sort(random.standard_normal(shape), axis=-1)[..., ::-1].copy()
    score[..., 1] = np.nextafter(score[..., 0], -math.inf)
    mean = np.abs(random.standard_normal(shape))
    mean[0, 0, 0], mean[0, 0, 1] = 5e-324, 1.7976931348623157e308
    return tensors | {"score": score, "mean": mean}


def everything(registry: FeatureRegistry) -> list[object]:
    """All that a registry says."""
    concepts = [concept.name for concept in registry.concepts()]
    return [
        registry.models(),
        registry.saes(MODEL),
        registry.concepts(),
        registry.prompt_sets(),
        registry.judges(),
        registry.runs(),
        registry.calibrations(MODEL),
        registry.manifest_digest(),
        [registry.scores(run.name, concept) for run in registry.runs() for concept in concepts],
        [registry.uses_of(f"{sae_name('object')}:{index}") for index in (0, 10, SHARED_FEATURE)],
        concept_overview(registry),
        [concept_page(registry, concept) for concept in concepts],
        feature_page(registry, f"{sae_name('object')}:{SHARED_FEATURE}"),
    ]


def test_both_databases_give_back_the_same(postgresql: PostgresqlServer, manifest: Path, tmp_path: Path) -> None:
    """Every answer is equal, and prints equally: repr tells -0.0 from 0.0 and every float from its neighbours."""
    urls = sqlite_url(tmp_path / "registry.sqlite"), postgresql.new_database()
    answers = []
    for url in urls:
        with FeatureRegistry.built(url, manifest=manifest) as registry:
            answers.append(everything(registry))
    assert answers[0] == answers[1]
    assert repr(answers[0]) == repr(answers[1])


def test_what_was_written_comes_back(new_url: Callable[[], str], manifest: Path) -> None:
    """Each text and number is that of the manifest and of the statistics."""
    written, tensors = load_manifest(manifest), awkward_scores()
    with FeatureRegistry.built(new_url(), manifest=manifest) as registry:
        assert repr(registry.models()) == repr(list(written.models))
        assert repr(registry.saes(MODEL)) == repr(list(written.saes))
        assert {c.name: c for c in registry.concepts()} == {c.name: c for c in written.concepts}
        assert repr(registry.calibrations(MODEL)) == repr(list(written.calibrations))
        assert registry.model(MODEL).licence == AWKWARD
        found = registry.scores(run_name("object"), "pistol")
        assert [score.score for score in found] == tensors["score"][0].ravel().tolist()
        assert [score.mean for score in found] == tensors["mean"][0].ravel().tolist()
        assert (found[0].mean, found[1].mean) == (5e-324, 1.7976931348623157e308)


def test_a_name_in_a_url_may_hold_anything(postgresql: PostgresqlServer, manifest: Path, tmp_path: Path) -> None:
    """A database, or a folder, with a percent sign, quotes, blanks and more in its name is the one that is opened."""
    name = "50% of 'Zoë' \"née\" %20 %s"
    quoted = name.replace('"', '""')
    postgresql.execute(f'CREATE DATABASE "{quoted}" TEMPLATE template0')
    folder = tmp_path / name
    folder.mkdir()
    for url in (postgresql.url(name), sqlite_url(folder / "registry.sqlite")):
        with FeatureRegistry.built(url, manifest=manifest) as registry:
            assert registry.concept("pistol").title == AWKWARD
    assert [path.name for path in folder.iterdir()] == ["registry.sqlite"]
    assert postgresql.execute("SELECT count(*) FROM concepts", name) == [(4,)]
