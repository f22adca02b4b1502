"""The comparison of the gates: counts are those of a recount, and a difference is found where there is one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from saeuron_guard.benchmark.gates import Agreement, compare_gates, count, document_of
from saeuron_guard.cli import benchmark_gates
from saeuron_guard.cli.main import program
from saeuron_guard.errors import CannotEvaluate
from saeuron_guard.guard.guard import Guard
from saeuron_guard.guard.tables import HookpointTables
from saeuron_guard.policy.load import load_policy
from saeuron_guard.prompts.model import Prompt
from saeuron_guard.registry.records import ModelRecord
from saeuron_guard.verify.plan import Shot
from tests.tiny import HOOKPOINTS, TIMESTEPS, make_coder, make_config, make_pipeline, make_point, make_rule

MODEL = ModelRecord("tiny", "sd1", "", "", 16, 3, 3.0, "DDIMScheduler")


def make_guard(k: int, threshold: float, features: Sequence[int] = range(8)) -> Guard:
    """A guard of one concept whose SAE lets ``k`` latents fire at each position."""
    coder = make_coder(k=k)
    rule = make_rule("pistol", features, threshold=threshold)
    return Guard(make_config([make_point(HOOKPOINTS[0], coder, [rule])]), {HOOKPOINTS[0]: coder})


@pytest.fixture(scope="module")
def pipe(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The tiny pipeline."""
    return make_pipeline(tmp_path_factory.mktemp("tiny"))


def shots(number: int) -> tuple[Shot, ...]:
    """Prompts to draw."""
    return tuple(Shot(Prompt(f"p{place}", f"a {place}", ()), 1, ()) for place in range(number))


@pytest.mark.parametrize(("k", "threshold"), [(2, 0.0), (8, 0.3), (64, 0.3), (8, 1e4)])
def test_counts_are_those_of_a_recount(k: int, threshold: float) -> None:
    """With few latents a position the gates differ, with all of them they do not; none fires by the exact one alone."""
    guard = make_guard(k, threshold)
    tables = HookpointTables.build(guard.config.hookpoints[0], guard.coders[HOOKPOINTS[0]])
    x = torch.randn((3, 50, 32), generator=torch.Generator().manual_seed(k))
    found: dict[tuple[str, str], Agreement] = {}
    for _ in range(2):
        count(x, tables, tables.at(torch.tensor([float(TIMESTEPS[0])])), found)
    coder = guard.coders[HOOKPOINTS[0]]
    exact = (coder.encode(x)[..., :8] > threshold).any(-1)
    plain = (coder.pre_activations(x)[..., :8] > threshold).any(-1)
    agreement = found["pistol", HOOKPOINTS[0]]
    assert agreement.positions == 2 * 150
    assert agreement.both == 2 * int((exact & plain).sum())
    assert agreement.threshold_only == 2 * int((plain & ~exact).sum())
    assert agreement.exact_only == 0
    assert (agreement.disagreement > 0) == (k < 64 and threshold < 1e4 and bool((plain & ~exact).any()))
    if k == 2:
        assert agreement.disagreement > 0.5


def test_pictures_differ_where_the_gates_do(pipe: Any) -> None:
    """With as many latents as there are, both gates draw the same; with few, the pictures tell the difference."""
    same = compare_gates(pipe, make_guard(64, 0.3), MODEL, shots(2), "mean", lambda *_: None)
    assert (same.disagreement, same.images) == (0.0, 2)
    assert same.largest <= 1
    other = compare_gates(pipe, make_guard(2, 0.05), MODEL, shots(2), "mean", lambda *_: None)
    assert other.disagreement > 0.1
    assert other.largest > 1
    assert other.psnr < same.psnr
    assert other.identical < 2
    document = document_of([same, other])
    assert document[1]["concepts"][0]["threshold_only"] > 0
    json.dumps(document, allow_nan=False)
    with pytest.raises(CannotEvaluate, match="no prompts"):
        compare_gates(pipe, make_guard(2, 0.05), MODEL, (), "mean", lambda *_: None)


def test_prompts_are_spread_over_the_set() -> None:
    """Not the first ones, which ask for a few concepts only; all of them if that many are asked for."""
    policy = load_policy(Path(__file__).parents[2] / "policies" / "no-weapons.yaml")
    few = benchmark_gates._shots(policy, (1, 2), 16)
    assert len(few) == 16
    assert {shot.seed for shot in few} == {1, 2}
    assert len({shot.prompt.id for shot in few}) >= 8
    every = benchmark_gates._shots(policy, (1, 2), 10_000)
    assert [shot.seed for shot in every] == sorted(shot.seed for shot in every)
    assert len(every) == 320


@pytest.mark.parametrize("setting", ["action: detect", "mode: warn"])
def test_policies_that_do_not_edit_are_refused_before_anything_is_drawn(tmp_path: Path, setting: str) -> None:
    """By name, so that the others' figures are not lost after minutes."""
    text = (Path(__file__).parents[2] / "policies" / "no-weapons.yaml").read_text(encoding="utf-8")
    path = tmp_path / "watching.yaml"
    path.write_text(text.replace("  - concept: pistol\n", f"  - concept: pistol\n    {setting}\n", 1), encoding="utf-8")
    done = CliRunner().invoke(program, ["benchmark", "gates", str(path)])
    assert done.exit_code == 3
    assert f"{path}: the threshold gate edits" in done.stderr
