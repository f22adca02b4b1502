"""The unconditional branch is left alone where its place is certain; everything else is edited."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor

from saeuron_guard.guard.branches import stacks_branches, unconditional_rows
from tests.tiny import HOOKPOINTS, draw, make_guard


class Watch:
    """Which rows of a hookpoint's output the guard changed, one list of booleans for each denoiser call."""

    def __init__(self, pipe: Any) -> None:
        self.block = pipe.unet.get_submodule(HOOKPOINTS[0].partition(".")[2])
        self.changed: list[list[bool]] = []
        self._before: Tensor | None = None

    def before(self, _module: Any, _args: Any, output: Any) -> None:
        """The block's own output."""
        self._before = output[0].clone()

    def after(self, _module: Any, _args: Any, output: Any) -> None:
        """What the guard made of it."""
        assert self._before is not None
        pairs = zip(self._before, output[0], strict=True)
        self.changed.append([not torch.equal(one, other) for one, other in pairs])


@contextmanager
def watched(pipe: Any, branches: str) -> Iterator[Watch]:
    """A guard on ``pipe``, between two hooks that look at what goes in and what comes out."""
    watch = Watch(pipe)
    guard = make_guard(branches=branches)
    with ExitStack() as stack:
        stack.callback(watch.block.register_forward_hook(watch.before).remove)
        guard.attach(pipe)
        stack.callback(guard.detach)
        stack.callback(watch.block.register_forward_hook(watch.after).remove)
        yield watch


@pytest.mark.parametrize(
    ("branches", "guidance", "rows"),
    [
        ("conditional", 5.0, [False, False, True, True]),
        ("all", 5.0, [True, True, True, True]),
        ("conditional", 1.0, [True, True]),
    ],
)
def test_rows_that_are_edited(pipe: Any, branches: str, guidance: float, rows: list[bool]) -> None:
    """Two prompts: with guidance their second halves or all rows, as asked; without guidance all rows."""
    with watched(pipe, branches) as watch:
        draw(pipe, guidance=guidance, prompt=["a pistol", "a cat"])
    assert watch.changed == [rows] * 3


def test_guidance_that_ends_midway_leaves_nothing_unguarded(pipe: Any) -> None:
    """A callback that turns guidance off after a step halves the rows; from then on all of them are edited."""

    def turn_off(pipe: Any, _step: int, _timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        if pipe._guidance_scale > 1:
            pipe._guidance_scale = 0.0
            tensors["prompt_embeds"] = tensors["prompt_embeds"].chunk(2)[1]
        return tensors

    with watched(pipe, "conditional") as watch:
        draw(
            pipe,
            prompt=["a pistol", "a cat"],
            callback_on_step_end=turn_off,
            callback_on_step_end_tensor_inputs=["prompt_embeds"],
        )
    assert watch.changed == [[False, False, True, True], [True, True], [True, True]]


def test_calls_of_another_size_are_edited_whole(pipe: Any) -> None:
    """An extra call inside a step, with the conditional rows of two equal pictures, is no pair of branches."""
    noise = torch.randn(1, 4, 8, 8).repeat(2, 1, 1, 1)

    def once_more(pipe: Any, _step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        pipe.unet(tensors["latents"], timestep, tensors["prompt_embeds"].chunk(2)[1])
        return tensors

    with watched(pipe, "conditional") as watch:
        draw(
            pipe,
            steps=1,
            prompt=["a pistol", "a pistol"],
            latents=noise,
            callback_on_step_end=once_more,
            callback_on_step_end_tensor_inputs=["latents", "prompt_embeds"],
        )
    assert watch.changed == [[False, False, True, True], [True, True]]


def test_a_pipeline_with_a_call_of_its_own_is_edited_whole(pipe: Any) -> None:
    """Nobody knows what rows it stacks; a subclass that inherits the stock call is known."""

    class Renamed(StableDiffusionPipeline):
        pass

    class Own(StableDiffusionPipeline):
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            return super().__call__(*args, **kwargs)

    for kind, rows in ((Own, [True, True]), (Renamed, [False, True])):
        pipe.__class__ = kind
        try:
            with watched(pipe, "conditional") as watch:
                draw(pipe, steps=1)
        finally:
            pipe.__class__ = StableDiffusionPipeline
        assert watch.changed == [rows], kind


@pytest.mark.parametrize(
    ("guided", "sample", "expected"),
    [
        (True, torch.ones(4, 2), 2),
        (False, torch.ones(4, 2), 0),
        (True, torch.ones(3, 2), 0),
        (True, torch.arange(4.0)[:, None], 0),
        (True, None, 0),
    ],
)
def test_unconditional_rows(guided: bool, sample: Any, expected: int) -> None:
    """Half of the rows only with guidance on and two equal halves; otherwise none."""
    assert unconditional_rows(SimpleNamespace(do_classifier_free_guidance=guided), sample) == expected


def test_known_calls() -> None:
    """The base models' pipelines are known; those that stack other branches are not."""
    import diffusers

    known = ("StableDiffusionXLPipeline", "StableDiffusion3Pipeline", "StableDiffusionImg2ImgPipeline")
    other = ("StableDiffusionInstructPix2PixPipeline", "StableDiffusionPAGPipeline", "FluxPipeline")
    assert [stacks_branches(getattr(diffusers, name)) for name in known] == [True] * 3
    assert [stacks_branches(getattr(diffusers, name)) for name in other] == [False] * 3
