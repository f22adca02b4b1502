"""The weights that ship behave as their model card says; a rebuilt model is accepted by the same check."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from saeuron_guard.pipelines.emoji_canvas.classifier import ResidualClassifier
from saeuron_guard.pipelines.emoji_canvas.evaluation import draw_all, figures
from saeuron_guard.pipelines.emoji_canvas.stages import load_clip
from saeuron_guard.pipelines.emoji_canvas.workspace import Workspace
from saeuron_guard.pipelines.load import load_pipeline
from saeuron_guard.registry.store import FeatureRegistry
from saeuron_guard.resources import data_folder

SEED = 503
"""Of no training, calibration, audit or published figure."""

REGISTRY = data_folder("registry")
SPACE = Workspace(Path(), REGISTRY, lambda line: None)
SHIPPED_LIMIT = 40 * 10**6


@pytest.fixture(scope="module")
def found() -> dict[str, dict[str, float]]:
    """What both judges call one picture of every pair."""
    classifiers = {domain: ResidualClassifier.load(SPACE.classifiers / domain) for domain in ("object", "style")}
    return figures(draw_all(load_pipeline(SPACE.model), [SEED]), classifiers, load_clip(SPACE))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("judged", "least"),
    [("classifier object", 0.95), ("classifier style", 0.95), ("clip object", 0.90), ("clip style", 0.90)],
)
def test_pictures_show_what_their_prompt_asks_for(
    found: dict[str, dict[str, float]], judged: str, least: float
) -> None:
    """On prompts for all pairs of objects and styles, at a seed that nothing was trained or chosen with."""
    assert found["n"]["trained pairs"] == 136
    assert found[judged]["trained pairs"] >= least


def test_judges_read_held_out_renders() -> None:
    """Both judges pass their bar on renders that neither saw, as recorded by the build."""
    recorded: dict[str, Any] = json.loads((SPACE.model / "figures.json").read_text(encoding="utf-8"))["judges"]
    assert recorded["n"] >= 1000
    for judge in ("classifier", "clip"):
        assert recorded[f"{judge} object"] >= 0.98
        assert recorded[f"{judge} style"] >= 0.95


def test_autoencoders_restore_activations() -> None:
    """The SAEs leave at most 15 % of the variance of unseen activations and let at most a tenth of the latents die."""
    with FeatureRegistry.open() as registry:
        saes = registry.saes("emoji-canvas")
        assert len(saes) == 2
        for sae in saes:
            assert sae.fvu <= 0.15
            assert sae.dead_share <= 0.10
            assert 0 < sae.l0 <= 2 * sae.k


def test_every_concept_has_a_calibration() -> None:
    """All objects and all styles can be named in a policy."""
    with FeatureRegistry.open() as registry:
        concepts = registry.concepts()
        assert len(concepts) == 30
        assert [c.name for c in concepts if registry.calibration("emoji-canvas", c.name) is None] == []


def test_shipped_weights_stay_small() -> None:
    """All models together take at most 40 MB."""
    total = sum(path.stat().st_size for path in (REGISTRY / "models").rglob("*") if path.is_file())
    assert 20 * 10**6 < total <= SHIPPED_LIMIT
