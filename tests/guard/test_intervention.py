"""The edit is the formula: parity with a plain reference, and exactness where nothing is to be done."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from saeuron_guard.compiler.config import FeatureEdit, HookpointConfig, Rule
from saeuron_guard.guard import intervention
from saeuron_guard.guard.intervention import edit
from saeuron_guard.guard.tables import HookpointTables
from saeuron_guard.guard.threshold_gate import edit_by_threshold
from saeuron_guard.names import ACTIONS, MODES
from saeuron_guard.sae.sparse_coder import SparseCoder
from tests.guard.reference import reference
from tests.tiny import HOOKPOINTS, make_coder, make_point, make_rule

TIMES = (900, 500, 100)
DTYPES = {torch.float32: 1e-4, torch.bfloat16: 2e-2, torch.float16: 3e-3}
"""Largest difference from the reference, relative to the largest value: rounding of the result dominates."""


@dataclass(frozen=True)
class Case:
    """What hypothesis varies; all numbers follow from ``seed``."""

    seed: int
    d_in: int
    latents: int
    k: int
    rules: int
    batch: int
    pos: int
    dtype: torch.dtype
    one_timestep: bool

    def make(self) -> tuple[HookpointConfig, SparseCoder, torch.Tensor, list[float]]:
        """A coder, rules that differ in everything, an activation, and a timestep for each row."""
        numbers = np.random.default_rng(self.seed)
        coder = make_coder(self.seed, d_in=self.d_in, num_latents=self.latents, k=min(self.k, self.latents))
        free = [int(index) for index in numbers.permutation(self.latents)]
        rules = []
        for number in range(self.rules):
            chosen, free = free[: (size := int(numbers.integers(1, 4)))], free[size:]
            rules.append(random_rule(f"concept {number}", chosen, numbers))
        x = torch.from_numpy(numbers.normal(0, 2, (self.batch, self.pos, self.d_in))).to(self.dtype)
        times = numbers.uniform(0, 1000, 1 if self.one_timestep else self.batch).tolist()
        times = times * self.batch if self.one_timestep else times
        return make_point(HOOKPOINTS[0], coder, rules, timesteps=TIMES, gap=1000), coder, x, times


cases = st.builds(
    Case,
    seed=st.integers(0, 2**32 - 1),
    d_in=st.integers(2, 12),
    latents=st.integers(4, 40),
    k=st.integers(1, 40),
    rules=st.integers(1, 4),
    batch=st.integers(1, 4),
    pos=st.integers(1, 9),
    dtype=st.sampled_from(list(DTYPES)),
    one_timestep=st.booleans(),
)


def random_rule(concept: str, features: list[int], numbers: np.random.Generator) -> Rule:
    """A rule whose numbers differ between features and timesteps."""

    def column(values: np.ndarray) -> tuple[Any, ...]:
        return tuple(values.tolist())

    edits = tuple(
        FeatureEdit(
            index=index,
            score=1.0,
            rank=0,
            active=column(numbers.random(len(TIMES)) < 0.8),
            mean=column(numbers.uniform(0, 1, len(TIMES)).astype(np.float32).astype(float)),
            threshold=column(numbers.uniform(0, 1, len(TIMES)).astype(np.float32).astype(float)),
        )
        for index in features
    )
    strength, multiplier = float(numbers.choice([0, 0.5, 1, 2])), float(numbers.choice([-20, -1, 0, 1.5]))
    action, mode = str(numbers.choice(ACTIONS)), str(numbers.choice(MODES, p=(0.1, 0.1, 0.8)))
    return Rule(concept, "object", action, mode, "medium", 0.25, strength, multiplier, edits, "random")


def run(x: torch.Tensor, times: list[float], point: HookpointConfig, coder: SparseCoder) -> intervention.Edit:
    """Edit ``x``, with one timestep for the batch if all are equal."""
    tables = HookpointTables.build(point, coder)
    timestep = torch.tensor(times if len(set(times)) > 1 else times[:1], dtype=torch.float32)
    return edit(x, tables, tables.at(timestep))


@settings(max_examples=150)
@given(case=cases)
def test_parity_with_the_plain_reference(case: Case) -> None:
    """Any sizes, dtypes, rules and timesteps: the result is the reference's, up to rounding of the result."""
    point, coder, x, times = case.make()
    wanted, clear = reference(x.double().numpy(), times, point, coder)
    output = run(x, times, point, coder).output
    assert output.dtype == x.dtype
    difference = np.abs(output.double().numpy() - wanted)[clear]
    assert difference.max(initial=0) <= DTYPES[x.dtype] * max(1.0, np.abs(wanted).max())


@settings(max_examples=30)
@given(case=cases)
def test_rows_of_a_batch_do_not_see_each_other(case: Case) -> None:
    """A row alone gives what it gives in a batch, whatever its neighbours are."""
    point, coder, x, times = case.make()
    together = run(x, times, point, coder).output
    for row in range(x.shape[0]):
        _, clear = reference(x[row : row + 1].double().numpy(), times[row : row + 1], point, coder)
        alone = run(x[row : row + 1], times[row : row + 1], point, coder).output[0]
        kept = torch.from_numpy(clear[0])
        torch.testing.assert_close(together[row][kept], alone[kept])


def firing_case() -> tuple[HookpointConfig, SparseCoder, torch.Tensor]:
    """Eight features that fire at some positions of a map and not at others."""
    coder = make_coder()
    point = make_point(HOOKPOINTS[0], coder, [make_rule("pistol", range(8), times=3)], timesteps=TIMES)
    return point, coder, torch.randn(2, 64, 32, generator=torch.Generator().manual_seed(0))


def test_nothing_fires_and_the_tensor_comes_back() -> None:
    """Below every threshold the output is the very tensor that came in; with low thresholds it is another."""
    point, coder, x = firing_case()
    high = replace(point, rules=(make_rule("pistol", range(8), threshold=1e3, times=3),))
    assert run(x, [500.0], high, coder).output is x
    assert not torch.equal(run(x, [500.0], point, coder).output, x)


def test_positions_without_firing_keep_their_bits() -> None:
    """Where no feature fires every bit stays, also of negative zeros; elsewhere the activation changes."""
    point, coder, x = firing_case()
    x[..., 5] = -0.0
    result = run(x, [500.0], point, coder)
    assert result.firing is not None
    assert not bool(result.firing.fires.any(1).all())  # some places are looked at closely, and found to be quiet
    fired = torch.zeros(2, 64, dtype=torch.bool)
    places = result.firing.places[result.firing.fires.any(1)]
    fired[places[:, 0], places[:, 1]] = True
    changed = (result.output.view(torch.int32) != x.view(torch.int32)).any(-1)
    assert torch.equal(changed, fired)
    assert 0 < int(fired.sum()) < fired.numel()


def test_strength_zero_keeps_every_bit_though_features_fire() -> None:
    """Strength 0 leaves the activation alone, and still says what fired."""
    point, coder, x = firing_case()
    idle = replace(point, rules=(make_rule("pistol", range(8), strength=0.0, times=3),))
    result = run(x, [500.0], idle, coder)
    assert torch.equal(result.output.view(torch.int32), x.view(torch.int32))
    assert result.firing is not None
    assert bool(result.firing.fires.any())


def test_the_error_of_the_autoencoder_is_never_touched() -> None:
    """With latents mapped onto themselves the output is x; the published formula would give 2 x_hat - x."""
    point, coder, x = firing_case()
    same = replace(point, rules=(make_rule("pistol", range(8), multiplier=2.0, mean=0.5, times=3),))
    result = run(x, [500.0], same, coder)
    assert result.firing is not None
    assert bool(result.firing.fires.any())
    assert torch.equal(result.output, x)
    published = 2 * coder(x) - x
    assert float((published - x).abs().max()) > 0.1


def test_a_feature_outside_the_top_k_does_not_fire() -> None:
    """With k = 1 only the largest latent of a position fires, however far above its threshold another is."""
    coder = make_coder(k=1)
    point = make_point(HOOKPOINTS[0], coder, [make_rule("pistol", range(64), times=3)], timesteps=TIMES)
    x = torch.randn(1, 50, 32, generator=torch.Generator().manual_seed(0))
    result = run(x, [500.0], point, coder)
    assert result.firing is not None
    assert result.firing.fires.sum(1).tolist() == [1] * len(result.firing.places)
    largest = coder.pre_activations(x)[0].argmax(-1)
    assert torch.equal(result.firing.fires.to(torch.int8).argmax(1), largest[result.firing.places[:, 1]])


def test_places_are_encoded_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Encoding in parts, which bounds the memory, changes nothing but rounding."""
    point, coder, x = firing_case()
    whole = run(x, [500.0], point, coder).output
    monkeypatch.setattr(intervention, "_PLACES_AT_ONCE", 3)
    torch.testing.assert_close(run(x, [500.0], point, coder).output, whole)


def test_autocast_does_not_reach_the_formula() -> None:
    """Under autocast the formula is still computed in float32."""
    point, coder, x = firing_case()
    plain = run(x, [500.0], point, coder).output
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(run(x, [500.0], point, coder).output, plain)


def test_gradients_flow_through_the_edit() -> None:
    """An attack can differentiate through the guard: the gradient is that of the formula."""
    point, coder, x = firing_case()
    x = x[:, :8].clone().requires_grad_()
    output = run(x, [500.0], point, coder).output
    output.sum().backward()
    assert x.grad is not None
    step = torch.zeros_like(x)
    result = run(x.detach(), [500.0], point, coder)
    assert result.firing is not None
    row, position = result.firing.places[result.firing.fires.any(1)][0].tolist()
    step[row, position, 0] = 1e-2
    difference = (run(x.detach() + step, [500.0], point, coder).output - output.detach()).sum() / 1e-2
    assert abs(float(difference) - float(x.grad[row, position, 0])) < 0.05


@settings(max_examples=60)
@given(case=cases)
def test_the_threshold_gate_is_the_exact_one_with_all_in_the_top_k(case: Case) -> None:
    """With k as large as the dictionary, both gates say the same; positions without firing keep their bits."""
    point, coder, x, times = replace(case, k=case.latents).make()
    tables = HookpointTables.build(point, coder)
    timestep = torch.tensor(times if len(set(times)) > 1 else times[:1], dtype=torch.float32)
    exact = edit(x, tables, tables.at(timestep))
    _, clear = reference(x.double().numpy(), times, point, coder)
    quick = edit_by_threshold(x, tables, tables.at(timestep))
    difference = (quick.output.float() - exact.output.float()).abs()[torch.from_numpy(clear)]
    size = max(1.0, float(exact.output.float().abs().max()))
    assert float(difference.max() if difference.numel() else 0) <= DTYPES[x.dtype] * size
    assert quick.firing is not None
    silent = ~quick.firing.fires.any(dim=1).reshape(x.shape[:2])
    assert torch.equal(quick.output[silent], x[silent])


def test_the_threshold_gate_does_not_ask_for_the_top_k() -> None:
    """A feature above its threshold and outside of the top k fires by threshold, and not exactly."""
    coder = make_coder(3, d_in=8, num_latents=32, k=1)
    x = torch.randn(1, 6, 8, generator=torch.Generator().manual_seed(1)) * 3
    point = make_point(HOOKPOINTS[0], coder, [make_rule("pistol", range(32), threshold=0.01)])
    tables = HookpointTables.build(point, coder)
    rows = tables.at(torch.tensor([500.0]))
    exact, quick = edit(x, tables, rows).firing, edit_by_threshold(x, tables, rows).firing
    assert exact is not None
    assert quick is not None
    assert int(exact.fires.sum()) == 6
    assert int(quick.fires.sum()) > 6
