"""Streamed statistics against direct computation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from saeuron_guard.discovery.labels import ConceptTable
from saeuron_guard.discovery.statistics import StatisticsAccumulator, accumulate
from saeuron_guard.discovery.stream import StepActivations
from saeuron_guard.errors import CannotEvaluate
from saeuron_guard.prompts.model import Prompt

OBJECTS, STYLES = ("bomb", "cat"), ("Neon", "Pixel", None)
PROMPTS = [
    Prompt(f"{thing}-{style}", f"{thing} {style}", (("object", thing),) + ((("style", style),) if style else ()))
    for thing in OBJECTS
    for style in STYLES
]
TABLE = ConceptTable.of(PROMPTS)
LATENTS = 5


def _steps(seed: int, timesteps: tuple[int, ...] = (900, 500, 100)) -> list[StepActivations]:
    """All prompts at each timestep, with latents of which about half are 0."""
    generator = torch.Generator().manual_seed(seed)
    return [
        StepActivations(
            timestep,
            tuple(PROMPTS),
            (seed,) * len(PROMPTS),
            {"hook": torch.randn(len(PROMPTS), 4, LATENTS, generator=generator).relu()},
        )
        for timestep in timesteps
    ]


def _identity(latents: torch.Tensor) -> torch.Tensor:
    return latents


def test_streamed_statistics_equal_a_direct_computation() -> None:
    """Count, mean, second moment and firing rate equal numpy's over each concept's positions at each timestep."""
    steps = _steps(0) + _steps(1)
    found = accumulate(steps, {"hook": _identity}, TABLE)["hook"].frozen()
    assert found.timesteps == (900, 500, 100)
    assert TABLE.names == ("bomb", "cat", "Neon", "Pixel")
    for number, concept in enumerate(TABLE.names):
        rows = [row for row, prompt in enumerate(PROMPTS) if prompt.shows(concept)]
        for place, timestep in enumerate(found.timesteps):
            values = np.concatenate(
                [step.activations["hook"][rows].flatten(0, 1).numpy() for step in steps if step.timestep == timestep]
            )
            assert found.count[number, place] == len(values)
            np.testing.assert_allclose(found.mean[number, place], values.mean(0), rtol=1e-5)
            np.testing.assert_allclose(found.second[number, place], (values**2).mean(0), rtol=1e-5)
            np.testing.assert_allclose(found.rate[number, place], (values > 0).mean(0), rtol=1e-6)


@settings(deadline=None, max_examples=25)
@given(st.lists(st.booleans(), min_size=12, max_size=12))
def test_merging_two_parts_equals_one_pass(left: list[bool]) -> None:
    """However the data is split, two accumulators merge into what one pass gives; order does not matter."""
    steps = [step for seed in range(4) for step in _steps(seed)]
    whole = accumulate(steps, {"hook": _identity}, TABLE)["hook"].frozen()
    parts = [StatisticsAccumulator(TABLE, LATENTS), StatisticsAccumulator(TABLE, LATENTS)]
    for step, first in zip(steps, left, strict=True):
        parts[not first].add(step.timestep, step.prompts, step.activations["hook"])
    parts[0].merge(parts[1])
    merged = parts[0].frozen()
    assert merged.timesteps == whole.timesteps
    np.testing.assert_array_equal(merged.count, whole.count)
    np.testing.assert_array_equal(merged.rate, whole.rate)
    np.testing.assert_allclose(merged.mean, whole.mean, rtol=1e-5)
    np.testing.assert_allclose(merged.second, whole.second, rtol=1e-5)


def test_a_concept_without_samples_is_an_error() -> None:
    """A concept that no row showed is named; with all concepts shown there is no error."""
    accumulator = StatisticsAccumulator(TABLE, LATENTS)
    accumulator.add(900, [PROMPTS[0]], torch.ones(1, 4, LATENTS))
    with pytest.raises(CannotEvaluate, match="cat, Pixel"):
        accumulator.frozen()
    accumulator.add(900, PROMPTS, torch.ones(len(PROMPTS), 4, LATENTS))
    assert accumulator.frozen().count.min() > 0


def test_statistics_of_other_concepts_do_not_merge() -> None:
    """Merging refuses another concept table and another number of latents."""
    mine = StatisticsAccumulator(TABLE, LATENTS)
    for other in (
        StatisticsAccumulator(TABLE, LATENTS + 1),
        StatisticsAccumulator(ConceptTable.of(PROMPTS[:1]), LATENTS),
    ):
        with pytest.raises(CannotEvaluate, match="cannot be merged"):
            mine.merge(other)
    mine.merge(StatisticsAccumulator(TABLE, LATENTS))


def test_concept_tables_need_labels_and_names_of_one_domain() -> None:
    """Prompts without labels, or a name in two domains, are refused with what to do."""
    with pytest.raises(CannotEvaluate, match="no prompt carries a label"):
        ConceptTable.of([Prompt("a", "a", ())])
    with pytest.raises(CannotEvaluate, match="cat"):
        ConceptTable.of([Prompt("a", "a", (("object", "cat"), ("style", "cat")))])
    assert ConceptTable.of(PROMPTS).codes(PROMPTS[2]) == (0, -1)
