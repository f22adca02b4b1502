"""The overhead benchmark: every variant does what its name says, and time is told apart from time."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from diffusers import UNet2DConditionModel
from torch import nn

from saeuron_guard.benchmark import overhead
from saeuron_guard.benchmark.full_size import SIZES, FullSize, make_pipeline
from saeuron_guard.benchmark.overhead import VARIANTS, Measured, OverheadBenchmark, run_benchmark
from saeuron_guard.benchmark.stopwatch import Stopwatch, begin, end
from saeuron_guard.cli.main import program
from saeuron_guard.errors import CannotEvaluate
from saeuron_guard.guard.guard import Guard


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> OverheadBenchmark:
    """A run at the small size, of one repetition, with a clock that goes on by one each time it is asked."""
    ticks = itertools.count()
    folder = tmp_path_factory.mktemp("overhead")
    return run_benchmark(folder, SIZES["small"], 1, lambda: float(next(ticks)), lambda _: None)


def test_concepts_fire_where_the_variant_says(found: OverheadBenchmark) -> None:
    """Nowhere, at a tenth of the positions and everywhere, by the guard's own report; without a guard there is none."""
    fired = [one.fired for one in found.measured]
    assert fired[:2] == [None, 0.0]
    assert fired[2] == pytest.approx(0.1, abs=0.05)
    assert fired[3:] == [1.0, 0.0, 1.0, None]


def test_hooks_are_timed_and_nothing_else(found: OverheadBenchmark) -> None:
    """One interval at each hookpoint and two around the denoiser, guarded or not; a step has many more ticks."""
    intervals = len(overhead.HOOKPOINTS) + 2
    assert {one.hooks for one in found.measured} == {(float(intervals),)}
    assert all(one.steps[0] > intervals for one in found.measured)


def test_checkpoints_are_in_saeurons_layout(tmp_path: Path) -> None:
    """A folder a hookpoint with ``cfg.json``, whose number of latents follows from the expansion, and the weights."""
    run_benchmark(tmp_path, SIZES["small"], 1, lambda: 0.0, lambda _: None)
    for hookpoint in overhead.HOOKPOINTS:
        config = json.loads((tmp_path / hookpoint / "cfg.json").read_text())
        assert (config["num_latents"], config["expansion_factor"], config["batch_topk"]) == (0, 16, True)
        assert (tmp_path / hookpoint / "sae.safetensors").is_file()


def test_the_default_is_sd_15_with_saeurons_saes() -> None:
    """859 million parameters, 1,280 channels and 20,480 latents; counted without making them."""
    size = FullSize()
    with torch.device("meta"):
        unet = UNet2DConditionModel(sample_size=64, **size.unet)
    assert sum(parameter.numel() for parameter in unet.parameters()) == 859_520_964
    assert (size.d_in, size.latents, size.k, size.sample) == (1280, 20_480, 32, 64)
    assert [unet.get_submodule(name.removeprefix("unet.")).out_channels for name in overhead.HOOKPOINTS] == [1280, 1280]


def test_a_guard_that_does_nothing_is_no_figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the guard is not at work in the step, or the pipeline is not restored, there is an error in place of times."""
    monkeypatch.setattr(Guard, "attach", lambda guard, pipe, **_: guard)
    with pytest.raises(CannotEvaluate, match="changed nothing"):
        run_benchmark(tmp_path / "1", SIZES["small"], 1, lambda: 0.0, lambda _: None)
    monkeypatch.undo()
    monkeypatch.setattr(Guard, "detach", lambda guard: None)
    with pytest.raises(CannotEvaluate, match="another image than before"):
        run_benchmark(tmp_path / "2", SIZES["small"], 1, lambda: 0.0, lambda _: None)


def test_targets_are_shares_of_a_full_size_step(found: OverheadBenchmark) -> None:
    """A hookpoint may cost the promised share of a bare step and no more; at the small size nothing is promised."""
    bare, *others = VARIANTS
    measured = [Measured(bare, (10.0, 10.0), (0.0, 0.0), None)]
    measured += [Measured(one, (11.0, 11.0), (2 * 10 * (one.target or 0.0),) * 2, None) for one in others]
    exact = replace(found, size=FullSize(), measured=tuple(measured))
    assert exact.passed
    assert [exact.met(one) for one in exact.measured] == [None, True, True, True, True, True, None]
    slower = replace(measured[1], hooks=(0.021, 0.021))
    assert not replace(exact, measured=(measured[0], slower)).passed
    assert replace(found, measured=(measured[0], slower)).passed


def test_a_stopwatch_stops_before_other_hooks() -> None:
    """Hooks between begin and end are timed; those before and after are not."""
    ticks, seen = [0.0], []

    def lasting(seconds: float) -> Any:
        def hook(*_: Any) -> None:
            ticks[0] += seconds
            seen.append(seconds)

        return hook

    model = nn.Sequential(nn.Identity())
    watch = Stopwatch(lambda: ticks[0])
    with torch.no_grad():
        model[0].register_forward_hook(lasting(100))
        with begin(watch, model, [model[0]]):
            handle = model[0].register_forward_hook(lasting(1))
            with end(watch, model, [model[0]]):
                model[0].register_forward_hook(lasting(1000))
                model(torch.zeros(1))
    assert (watch.seconds, seen) == (1.0, [100, 1, 1000])
    handle.remove()
    assert len(model[0]._forward_hooks) == 2


def test_the_command_prints_and_writes_the_figures(tmp_path: Path) -> None:
    """A table for people; the same figures in a file."""
    out = tmp_path / "figures.json"
    command = ["benchmark", "overhead", "--size", "small", "--repeats", "1", "--out", str(out)]
    done = CliRunner().invoke(program, command)
    assert done.exit_code == 0, done.output
    assert "exact gate, fires at 10 %" in done.output
    document = json.loads(out.read_text())
    assert [one["name"] for one in document["variants"]] == [variant.name for variant in VARIANTS]
    assert document["held"]["weights of the SAEs"] == 2 * 4 * (2 * 1024 * 64 + 1024 + 64)


def test_made_pipelines_repeat(tmp_path: Path) -> None:
    """The same size gives the same weights."""
    first, second = (make_pipeline(SIZES["small"]).unet.state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
