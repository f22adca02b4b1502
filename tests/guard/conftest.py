"""One tiny pipeline for all tests of the guard; each test has to leave it as it found it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline

from saeuron_guard.guard.guard import Guard
from tests.tiny import draw, make_guard, make_pipeline


@pytest.fixture(scope="session")
def shared_pipe(tmp_path_factory: pytest.TempPathFactory) -> StableDiffusionPipeline:
    """The pipeline that ``pipe`` checks and hands out."""
    pipe = make_pipeline(tmp_path_factory.mktemp("tiny"))
    draw(pipe)  # a first call leaves attributes on the pipeline that later ones only change
    return pipe


@pytest.fixture
def pipe(shared_pipe: StableDiffusionPipeline) -> Iterator[StableDiffusionPipeline]:
    """The tiny pipeline; fails the test that leaves a hook, another class or other weights behind."""
    before = traces(shared_pipe)
    yield shared_pipe
    assert traces(shared_pipe) == before


@pytest.fixture
def attach(pipe: StableDiffusionPipeline) -> Iterator[Callable[..., Guard]]:
    """Attaches a guard with given settings to the tiny pipeline; the guard is detached at the end of the test."""
    with ExitStack() as stack:

        def make_and_attach(**settings: Any) -> Guard:
            guard = make_guard(**settings).attach(pipe)
            stack.callback(guard.detach)
            return guard

        yield make_and_attach


def traces(pipe: Any) -> tuple[object, ...]:
    """Everything that a guard could leave behind."""
    hooks = [
        (name, *module._forward_hooks, *module._forward_pre_hooks, "forward" in vars(module))
        for name, module in pipe.unet.named_modules()
    ]
    weights = float(sum(parameter.detach().double().sum() for parameter in pipe.unet.parameters()))
    return type(pipe), type(pipe.scheduler), sorted(vars(pipe)), hooks, weights, torch.is_grad_enabled()
