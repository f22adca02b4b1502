"""The rivals compute what they are said to compute, at real hookpoints of a real denoiser, and leave nothing behind."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor

from saeuron_guard.benchmark.rivals import Directions, mean_difference, published
from saeuron_guard.compiler.config import GuardConfig
from saeuron_guard.discovery.concept_statistics import ConceptStatistics
from saeuron_guard.discovery.labels import ConceptTable
from saeuron_guard.errors import ModelMismatch
from saeuron_guard.guard.guard import Guard
from tests.tiny import CHANNELS, HOOKPOINTS, draw, make_coder, make_config, make_pipeline, make_point, make_rule

TABLE = ConceptTable(("object", "style"), (("bomb", "cat", "dog"), ("Neon", "Pixel")))
CODER = make_coder()


@pytest.fixture(scope="module")
def pipe(tmp_path_factory: pytest.TempPathFactory) -> StableDiffusionPipeline:
    """A small pipeline of real diffusers classes."""
    return make_pipeline(tmp_path_factory.mktemp("tiny"))


def config_at(hookpoint: str, **settings: float) -> GuardConfig:
    """A guard of sixteen features that fire all over the place, at one hookpoint."""
    return make_config([make_point(hookpoint, CODER, [make_rule("pistol", range(16), **settings)])])  # type: ignore[arg-type]


def published_at(hookpoint: str, **settings: float) -> Callable[[Any], AbstractContextManager[Any]]:
    """The published formula with that guard's features."""
    return lambda pipe: published(pipe, config_at(hookpoint, **settings), {hookpoint: CODER})


def guard_at(hookpoint: str, **settings: float) -> Callable[[Any], AbstractContextManager[Any]]:
    """Our guard with the same."""

    @contextmanager
    def guarded(pipe: Any) -> Iterator[None]:
        guard = Guard(config_at(hookpoint, **settings), {hookpoint: CODER}).attach(pipe)
        try:
            yield
        finally:
            guard.detach()

    return guarded


def steered(directions: dict[str, Directions], factor: float) -> Callable[[Any], AbstractContextManager[Any]]:
    """Steering along ``directions``."""
    return lambda pipe: mean_difference(pipe, directions, factor)


@torch.no_grad()
def passed(
    pipe: Any,
    hookpoint: str,
    act: Callable[[Any], AbstractContextManager[Any]],
    timestep: int = 501,
    *,
    by_name: bool = False,
) -> tuple[Tensor, Tensor]:
    """The activation (2, 64, CHANNELS) at ``hookpoint`` before and after ``act`` edits it, in one denoiser call."""
    block = pipe.unet.get_submodule(hookpoint.removeprefix("unet."))
    generator = torch.Generator().manual_seed(3)
    sample = torch.randn(2, 4, 8, 8, generator=generator)
    text = torch.randn(2, 16, 32, generator=generator)
    seen: list[Tensor] = []

    def keep(_module: Any, _args: Any, output: Any) -> None:
        seen.append(output[0].flatten(2).transpose(1, 2).clone())

    with ExitStack() as stack:
        stack.callback(block.register_forward_hook(keep).remove)
        stack.enter_context(act(pipe))
        stack.callback(block.register_forward_hook(keep).remove)
        if by_name:
            pipe.unet(sample=sample, timestep=timestep, encoder_hidden_states=text)
        else:
            pipe.unet(sample, torch.tensor(timestep), text)
    before, after = seen
    return before, after


def same_bits(one: Tensor, other: Tensor) -> bool:
    """Whether all bits are equal; negative zeros are not zeros."""
    return bool((one.view(torch.int32) == other.view(torch.int32)).all())


NOTHING_EDITED = {
    "nothing fires": {"threshold": 1e3},
    "latents are mapped onto themselves": {"multiplier": 2.0, "mean": 0.5},
}


@pytest.mark.parametrize("hookpoint", HOOKPOINTS)
@pytest.mark.parametrize("settings", NOTHING_EDITED.values(), ids=NOTHING_EDITED.keys())
def test_the_published_formula_gives_twice_the_reconstruction_minus_x(
    pipe: Any, hookpoint: str, settings: dict[str, float]
) -> None:
    """With nothing edited it gives ``2 x_hat - x``, far from x; our guard with the same features gives x itself."""
    x, output = passed(pipe, hookpoint, published_at(hookpoint, **settings))
    torch.testing.assert_close(output, 2 * CODER(x) - x, rtol=1e-4, atol=1e-4)
    assert float((output - x).abs().max()) > 0.1
    ours_x, ours = passed(pipe, hookpoint, guard_at(hookpoint, **settings))
    assert same_bits(ours_x, x)
    assert same_bits(ours, x)


@pytest.mark.parametrize("hookpoint", HOOKPOINTS)
@pytest.mark.parametrize("settings", [{}, {"multiplier": -1.0, "mean": 0.3}, {"threshold": 0.5}], ids=str)
def test_the_published_formula_makes_the_guards_edit_and_the_error_besides(
    pipe: Any, hookpoint: str, settings: dict[str, float]
) -> None:
    """What it adds to ``2 x_hat - x`` is what our guard adds to x: the same features, means and thresholds."""
    x, output = passed(pipe, hookpoint, published_at(hookpoint, **settings))
    ours_x, ours = passed(pipe, hookpoint, guard_at(hookpoint, **settings))
    assert same_bits(ours_x, x)
    edit = ours - x
    torch.testing.assert_close(output - (2 * CODER(x) - x), edit, rtol=1e-3, atol=1e-4)
    assert float(edit.abs().max()) > 0.1
    assert bool((edit == 0).all(-1).any())  # some positions are edited, others are not


def test_the_published_formula_reads_its_tables_at_the_timestep(pipe: Any) -> None:
    """Features that are active at one calibrated timestep are edited there and not at another."""
    rule = make_rule("pistol", range(16), times=2)
    early = replace(rule, features=tuple(replace(edit, active=(True, False)) for edit in rule.features))
    config = make_config([make_point(HOOKPOINTS[0], CODER, [early], timesteps=(900, 100), gap=800)])

    def act(pipe: Any) -> AbstractContextManager[None]:
        return published(pipe, config, {HOOKPOINTS[0]: CODER})

    for timestep, edits in ((870, True), (130, False)):
        for by_name in (True, False):
            x, output = passed(pipe, HOOKPOINTS[0], act, timestep, by_name=by_name)
            rest = output - (2 * CODER(x) - x)
            assert (float(rest.abs().max()) > 0.1) == edits


def statistics_of(mean: np.ndarray, timesteps: tuple[int, ...] = (900, 100)) -> ConceptStatistics:
    """Statistics of raw activations of which only the means, (5, T, d_in), matter."""
    mean = mean.astype(np.float32)
    count = np.full(mean.shape[:2], 10, dtype=np.int64)
    return ConceptStatistics(TABLE, timesteps, count, mean, mean**2, np.zeros_like(mean))


def random_statistics(seed: int) -> ConceptStatistics:
    """Statistics with random means, other ones at each timestep."""
    return statistics_of(np.random.default_rng(seed).normal(size=(5, 2, CHANNELS)))


def test_directions_point_from_the_other_concepts_of_the_domain_to_the_concept() -> None:
    """They are unit vectors from the others' mean to the concept's; what another domain's concepts are is no matter."""
    mean = np.zeros((5, 2, 2))
    mean[0], mean[1], mean[2] = [[3.0, 4.0], [0.0, 5.0]], [[2.0, 0.0], [0.0, 1.0]], [[-2.0, 0.0], [0.0, 3.0]]
    mean[3:] = 100.0
    directions = Directions(statistics_of(mean), "bomb")
    torch.testing.assert_close(directions.vectors, torch.tensor([[0.6, 0.8], [0.0, 1.0]]))
    mean[3] = -100.0
    torch.testing.assert_close(Directions(statistics_of(mean), "bomb").vectors, directions.vectors)
    diagonal = torch.full((2, 2), -(0.5**0.5))
    torch.testing.assert_close(Directions(statistics_of(mean), "Neon").vectors, diagonal)


def test_the_nearest_timesteps_direction_is_used() -> None:
    """Between two calibrated timesteps the nearer one's direction counts."""
    directions = Directions(random_statistics(0), "bomb")
    assert not torch.equal(directions.vectors[0], directions.vectors[1])
    for timestep, row in ((981.0, 0), (501.0, 0), (499.0, 1), (1.0, 1)):
        assert torch.equal(directions.at(torch.tensor([timestep])), directions.vectors[row])


@pytest.mark.parametrize("concept", ["cat", "Neon"])
def test_directions_are_numbers(concept: str) -> None:
    """Also those of a concept alone in its domain, as Neon is here: an edit must not turn a picture into nothing."""
    table = ConceptTable(("object", "style"), (("bomb", "cat"), ("Neon",)))
    full = random_statistics(0)
    alone = ConceptStatistics(table, full.timesteps, full.count[:3], full.mean[:3], full.second[:3], full.rate[:3])
    assert bool(Directions(alone, concept).vectors.isfinite().all())


@pytest.mark.parametrize("hookpoint", HOOKPOINTS)
@pytest.mark.parametrize(("timestep", "row"), [(870, 0), (130, 1)])
def test_the_mean_difference_is_projected_out(pipe: Any, hookpoint: str, timestep: int, row: int) -> None:
    """Factor 1 leaves nothing along the direction where there was something, and all else as it was."""
    directions = Directions(random_statistics(1), "bomb")
    direction = directions.vectors[row]
    x, output = passed(pipe, hookpoint, steered({hookpoint: directions}, 1.0), timestep)
    along = x @ direction
    positive = along > 0
    assert 0 < int(positive.sum()) < positive.numel()
    assert float(along.max()) > 0.1
    torch.testing.assert_close(output[~positive], x[~positive], rtol=0, atol=0)
    assert float((output @ direction)[positive].abs().max()) < 1e-5
    rest = x - along[..., None] * direction
    torch.testing.assert_close((output - (output @ direction)[..., None] * direction)[positive], rest[positive])


@pytest.mark.parametrize(("branches", "edited"), [("conditional", [False, True]), ("all", [True, True])])
def test_steering_can_leave_the_unconditional_branch_alone(pipe: Any, branches: str, edited: list[bool]) -> None:
    """Of a guided pipeline call's two rows the second is edited, or both are."""
    directions = {HOOKPOINTS[0]: Directions(random_statistics(1), "bomb")}
    block = pipe.unet.get_submodule(HOOKPOINTS[0].removeprefix("unet."))
    seen: list[Tensor] = []

    def keep(_module: Any, _args: Any, output: Any) -> None:
        seen.append(output[0].clone())

    with ExitStack() as stack:
        stack.callback(block.register_forward_hook(keep).remove)
        stack.enter_context(mean_difference(pipe, directions, 4.0, branches))
        stack.callback(block.register_forward_hook(keep).remove)
        draw(pipe, steps=1)
    before, after = seen
    assert [not torch.equal(one, other) for one, other in zip(before, after, strict=True)] == edited


@pytest.mark.parametrize("factor", [0.0, 1.0, 2.0, 8.0])
def test_the_factor_says_how_far_the_component_is_pushed(pipe: Any, factor: float) -> None:
    """A positive component becomes ``1 - factor`` times itself: 2 reflects it, 0 keeps every bit."""
    hookpoint = HOOKPOINTS[0]
    directions = Directions(random_statistics(1), "bomb")
    x, output = passed(pipe, hookpoint, steered({hookpoint: directions}, factor), 900)
    along, after = x @ directions.vectors[0], output @ directions.vectors[0]
    positive = along > 0
    torch.testing.assert_close(after[positive], (1 - factor) * along[positive], rtol=1e-3, atol=1e-4)
    assert torch.equal(output, x) == (factor == 0)


def test_each_hookpoint_has_its_own_directions(pipe: Any) -> None:
    """With several hookpoints every one of them is edited along its own direction, and only those that are named."""
    both = {hookpoint: Directions(random_statistics(seed), "cat") for seed, hookpoint in enumerate(HOOKPOINTS)}
    for hookpoint in HOOKPOINTS:
        _, output = passed(pipe, hookpoint, steered(both, 1.0), 900)
        assert float((output @ both[hookpoint].vectors[0]).max()) < 1e-5
        other = next(name for name in HOOKPOINTS if name != hookpoint)
        assert float((output @ both[other].vectors[0]).max()) > 0.1
        x, unnamed = passed(pipe, hookpoint, steered({other: both[other]}, 1.0), 900)
        assert torch.equal(unnamed, x)


INTERVENTIONS = {
    "published": published_at(HOOKPOINTS[0]),
    "mean difference": steered({HOOKPOINTS[1]: Directions(random_statistics(2), "dog")}, 4.0),
}


def hooks_of(pipe: Any) -> int:
    """How many hooks the denoiser carries."""
    return sum(len(each._forward_hooks) + len(each._forward_pre_hooks) for each in pipe.unet.modules())


@pytest.mark.parametrize("act", INTERVENTIONS.values(), ids=INTERVENTIONS.keys())
def test_nothing_is_left_on_the_pipeline(pipe: Any, act: Callable[[Any], AbstractContextManager[Any]]) -> None:
    """Inside the block pictures are others; after it, also after an error, they are what they were, bit for bit."""
    plain = draw(pipe)

    def fail_inside() -> None:
        with act(pipe):
            raise RuntimeError(f"with {hooks_of(pipe)} hooks")

    with act(pipe):
        assert not torch.equal(draw(pipe), plain)
    assert hooks_of(pipe) == 0
    with pytest.raises(RuntimeError, match="with 2 hooks"):
        fail_inside()
    assert hooks_of(pipe) == 0
    assert torch.is_grad_enabled()
    assert torch.equal(draw(pipe), plain)


def test_a_hookpoint_that_is_not_there_is_a_model_mismatch(pipe: Any) -> None:
    """The error names it, and hooks that were put before it are gone; without it the others are put."""
    directions = Directions(random_statistics(2), "dog")
    missing = "unet.up_blocks.7.attentions.1"
    with pytest.raises(ModelMismatch, match=missing):
        steered({HOOKPOINTS[0]: directions, missing: directions}, 1.0)(pipe).__enter__()
    assert hooks_of(pipe) == 0
    with steered({HOOKPOINTS[0]: directions}, 1.0)(pipe):
        assert hooks_of(pipe) == 2
