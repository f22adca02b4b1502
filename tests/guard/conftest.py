"""One tiny pipeline for all tests of the guard, which each has to leave as it found it; and a guard's folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
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


@pytest.fixture(scope="session")
def guard_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a guard."""
    folder = tmp_path_factory.mktemp("sound")
    make_guard().save(folder)
    return {name: (folder / name).read_bytes() for name in ("guard.json", "guard.safetensors")}


@pytest.fixture
def guard_folder(tmp_path: Path, guard_files: dict[str, bytes]) -> Path:
    """A guard's folder, untouched so far; it loads."""
    place = tmp_path / "guard"
    place.mkdir(mode=0o755)
    for name, data in guard_files.items():
        (place / name).write_bytes(data)
        (place / name).chmod(0o644)
    assert Guard.load(place).config == make_guard().config
    return place


def traces(pipe: Any) -> tuple[object, ...]:
    """Everything that a guard could leave behind."""
    hooks = [
        (name, *module._forward_hooks, *module._forward_pre_hooks, "forward" in vars(module))
        for name, module in pipe.unet.named_modules()
    ]
    weights = float(sum(parameter.detach().double().sum() for parameter in pipe.unet.parameters()))
    return type(pipe), type(pipe.scheduler), sorted(vars(pipe)), hooks, weights, torch.is_grad_enabled()
