"""Whole training runs on a small pipeline."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from saeuron_guard.discovery.evaluation import evaluate
from saeuron_guard.discovery.labels import ConceptTable
from saeuron_guard.discovery.recipe import SaeRecipe
from saeuron_guard.discovery.statistics import accumulate, collect_statistics
from saeuron_guard.discovery.stream import ActivationStream, Sampling
from saeuron_guard.discovery.training import train_saes
from saeuron_guard.errors import ArtefactError
from saeuron_guard.sae.sparse_coder import SparseCoder
from tests.discovery.labelled import PROMPTS
from tests.tiny import CHANNELS, HOOKPOINTS, make_pipeline

RECIPE = SaeRecipe(
    num_latents=48, k=6, steps=100, batch_positions=512, learning_rate=3e-3, warm_up=5, sampling=Sampling(4, 5.0, 4),
    buffer_mb=0.25, checkpoint_every=15, variant="supervised",
)  # fmt: skip


@pytest.fixture(scope="module")
def pipe(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """One small pipeline for all tests of this file."""
    return make_pipeline(tmp_path_factory.mktemp("pipeline"))


@pytest.fixture(scope="module")
def finished(pipe: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run."""
    out = tmp_path_factory.mktemp("finished")
    train_saes(pipe, PROMPTS, HOOKPOINTS, RECIPE, out, lambda line: None)
    return out


class _Stopped(Exception):
    """Raised by a log that stops a run."""


def _stop_at(step: int) -> Any:
    def log(line: str) -> None:
        if f"step {step}/" in line:
            raise _Stopped

    return log


def test_a_run_writes_sparsify_folders_that_work(pipe: Any, finished: Path) -> None:
    """Each hookpoint gets a coder that loads and explains unseen images clearly better than an untrained one."""
    unseen = list(ActivationStream(pipe, PROMPTS, HOOKPOINTS, seeds=(77,), sampling=RECIPE.sampling).passes())
    for hookpoint in HOOKPOINTS:
        fields = json.loads((finished / hookpoint / "cfg.json").read_text())
        coder = SparseCoder.load(finished / hookpoint, fields["weights_digest"])
        untrained = SparseCoder(coder.config, generator=torch.Generator().manual_seed(1)).requires_grad_(False)
        figures = [evaluate(unseen, {hookpoint: each}, 10**9)[hookpoint] for each in (coder, untrained)]
        assert figures[0].fvu < 0.8 * figures[1].fvu
        assert figures[0].l0 <= 6
        assert fields["held_out"]["positions"] == len(PROMPTS) * 4 * 64
        assert fields["hookpoint"] == hookpoint
        assert fields["trained_with"]["inference_top_k"] == "position"
        assert fields["tied_latents"] == {"bomb": 0, "cat": 1, "dog": 2, "Neon": 3, "Pixel": 4}
    assert not (finished / "checkpoint.safetensors").exists()


def test_a_resumed_run_ends_with_the_same_weights(pipe: Any, finished: Path, tmp_path: Path) -> None:
    """Stopped after a checkpoint and started again, a run gives the very bytes of one that was not stopped."""
    with pytest.raises(_Stopped):
        train_saes(pipe, PROMPTS, HOOKPOINTS, RECIPE, tmp_path, _stop_at(80))
    assert (tmp_path / "checkpoint.safetensors").exists()
    lines: list[str] = []
    train_saes(pipe, PROMPTS, HOOKPOINTS, RECIPE, tmp_path, lines.append)
    assert any("resuming after step 75" in line for line in lines)
    for hookpoint in HOOKPOINTS:
        for file in ("sae.safetensors", "cfg.json"):
            assert (tmp_path / hookpoint / file).read_bytes() == (finished / hookpoint / file).read_bytes()


def test_another_seed_gives_other_weights(pipe: Any, finished: Path, tmp_path: Path) -> None:
    """The recipe's seed decides the weights: the equality above is not that of a constant."""
    train_saes(pipe, PROMPTS, HOOKPOINTS, replace(RECIPE, seed=1), tmp_path, lambda line: None)
    first, second = ((out / HOOKPOINTS[0] / "sae.safetensors").read_bytes() for out in (tmp_path, finished))
    assert first != second


def test_a_finished_run_is_returned_as_it_is(pipe: Any, finished: Path) -> None:
    """Training again into a finished folder makes no image and changes no file."""
    before = (finished / HOOKPOINTS[0] / "sae.safetensors").stat().st_mtime_ns
    lines: list[str] = []
    trained = train_saes(pipe, PROMPTS, HOOKPOINTS, RECIPE, finished, lines.append)
    assert [each.hookpoint for each in trained] == list(HOOKPOINTS)
    assert len(lines) == 1
    assert (finished / HOOKPOINTS[0] / "sae.safetensors").stat().st_mtime_ns == before


def test_another_recipe_does_not_overwrite_a_run(pipe: Any, finished: Path, tmp_path: Path) -> None:
    """A folder with another recipe's results, or checkpoint, is refused with what to do."""
    other = replace(RECIPE, learning_rate=1e-3)
    with pytest.raises(ArtefactError, match="choose another output folder"):
        train_saes(pipe, PROMPTS, HOOKPOINTS, other, finished, lambda line: None)
    with pytest.raises(_Stopped):
        train_saes(pipe, PROMPTS, HOOKPOINTS, RECIPE, tmp_path, _stop_at(80))
    with pytest.raises(ArtefactError, match="choose another output folder"):
        train_saes(pipe, PROMPTS, HOOKPOINTS, other, tmp_path, lambda line: None)


def test_statistics_of_a_pipeline_are_those_of_its_stream(pipe: Any, finished: Path) -> None:
    """Collecting through the pipeline equals encoding the stream's activations; the coder and the raw means differ."""
    hookpoint = HOOKPOINTS[0]
    coder = SparseCoder.load(finished / hookpoint)
    found = collect_statistics(
        pipe, {hookpoint: coder.encode, HOOKPOINTS[1]: lambda x: x}, PROMPTS, (3,), RECIPE.sampling, lambda line: None
    )
    table = ConceptTable.of(PROMPTS)
    stream = ActivationStream(pipe, PROMPTS, [hookpoint], seeds=(3,), sampling=RECIPE.sampling)
    direct = accumulate(stream.passes(), {hookpoint: coder.encode}, table)[hookpoint].frozen()
    assert found[hookpoint].timesteps == direct.timesteps
    assert found[hookpoint].mean == pytest.approx(direct.mean, rel=1e-4, abs=1e-5)
    assert found[hookpoint].mean.shape == (5, 4, 48)
    assert found[HOOKPOINTS[1]].mean.shape == (5, 4, CHANNELS)
    assert (found[HOOKPOINTS[1]].mean < 0).any()
