"""The matrix's rows about several pictures, pipelines, guards and threads, copies, exceptions and cancellation."""

from __future__ import annotations

import copy
import pickle
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionImg2ImgPipeline, StableDiffusionPipeline
from torch import Tensor

from saeuron_guard.guard.guard import Guard
from saeuron_guard.pipelines.fingerprint import fingerprint
from tests.guard.matrix.plain import plain_hooks
from tests.guard.matrix.rows import EFFECTIVE
from tests.guard.matrix.stage import Case, compare, keys, nothing, play, row, timed
from tests.tiny import draw, make_guard, make_pipeline, patch


class Pair:
    """The tiny pipeline, the guard on it, and the pictures without and with plain hooks."""

    def __init__(self, pipe: Any, guard: Guard) -> None:
        self.pipe, self.guard = pipe, guard
        self.unguarded = draw(pipe)
        with plain_hooks(pipe.unet, guard.config, guard.coders):
            self.wanted = draw(pipe)
        guard.attach(pipe)

    def check(self, picture: Tensor) -> None:
        """Raise AssertionError unless ``picture`` is the guarded one."""
        compare(picture, self.wanted, self.unguarded)


def another(pipe: Any, kind: type[Any] = StableDiffusionPipeline) -> Any:
    """A pipeline on the same models with a scheduler of its own."""
    parts = {**pipe.components, "scheduler": copy.deepcopy(pipe.scheduler)}
    other = kind(**parts, requires_safety_checker=False)
    other.set_progress_bar_config(disable=True)
    return other


def two_images(pair: Pair) -> None:
    """Both are the same bits."""
    first, second = draw(pair.pipe), draw(pair.pipe)
    pair.check(first)
    assert torch.equal(first, second)


def shared_unet(pair: Pair) -> None:
    """The other pipeline's pictures are guarded as long as the first one's guard is attached."""
    other = another(pair.pipe)
    pair.check(draw(other))
    pair.guard.detach()
    assert torch.equal(draw(other), pair.unguarded)


def from_pipe(pair: Pair) -> None:
    """Pipelines converted from the guarded one have its denoiser, and so its guard."""
    start = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    other = StableDiffusionImg2ImgPipeline.from_pipe(pair.pipe)
    other.set_progress_bar_config(disable=True)
    guarded = draw(other, image=start, strength=0.9)
    pair.guard.detach()
    assert not torch.equal(draw(other, image=start, strength=0.9), guarded)


def threads(pair: Pair) -> None:
    """Each thread draws what it draws alone."""
    pipes, drawn = [pair.pipe, another(pair.pipe)], {}
    barrier = threading.Barrier(2, timeout=60)

    def work(index: int) -> None:
        barrier.wait()
        drawn[index] = draw(pipes[index])

    working = [threading.Thread(target=work, args=(index,)) for index in range(2)]
    for thread in working:
        thread.start()
    for thread in working:
        thread.join()
    for index in range(2):
        pair.check(drawn[index])


def exception(pair: Pair) -> None:
    """After errors in a block the guard goes on, and after detach the pipeline is as it was."""
    for error in (ValueError("no"), KeyboardInterrupt()):

        def fail(*_: Any, error: BaseException = error) -> Any:
            raise error

        repair = patch(pair.pipe.unet.up_blocks[1].resnets[2], "forward", fail)
        with pytest.raises(type(error)):
            draw(pair.pipe)
        repair()
    pair.check(draw(pair.pipe))
    pair.guard.detach()
    assert torch.equal(draw(pair.pipe), pair.unguarded)


def cancelled(pair: Pair) -> None:
    """The unfinished picture is guarded, the next one, too, and detach restores the pipeline."""

    def stop(running: Any, step: int, _timestep: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
        running._interrupt = step == 0
        return kwargs

    unfinished = draw(pair.pipe, callback_on_step_end=stop)
    pair.check(draw(pair.pipe))
    pair.guard.detach()
    assert not torch.equal(draw(pair.pipe, callback_on_step_end=stop), unfinished)
    assert torch.equal(draw(pair.pipe), pair.unguarded)


def denoiser_copy(pair: Pair) -> None:
    """A copied UNet has the hooks, so it is guarded wherever it is put."""
    parts = {**pair.pipe.components, "unet": copy.deepcopy(pair.pipe.unet)}
    other = StableDiffusionPipeline(**parts, requires_safety_checker=False)
    other.set_progress_bar_config(disable=True)
    pair.check(draw(other))


SCENES: dict[str, Callable[[Pair], None]] = {
    "two-images": two_images,
    "shared-unet": shared_unet,
    "from-pipe": from_pipe,
    "threads": threads,
    "exception": exception,
    "cancelled": cancelled,
    "denoiser-copy": denoiser_copy,
}

CASES = {
    "copy": Case(after=copy.deepcopy),
    "pickle": Case(after=pickle.dumps),
    "same-class": Case(call=lambda pipe: draw(type(pipe)(**pipe.components, requires_safety_checker=False))),
    "second-guard": Case(after=lambda pipe: make_guard().attach(another(pipe))),
    "other-model": Case(guard=lambda: make_guard(fingerprint="sha256:" + "0" * 64), call=nothing),
}


@keys(SCENES)
def test_sharing(pipe: Any, key: str) -> None:
    """Pictures, pipelines and threads that share a guarded model: as the matrix says."""
    assert row(key).outcome == EFFECTIVE
    pair = Pair(pipe, timed(make_guard()))
    try:
        SCENES[key](pair)
    finally:
        pair.guard.detach()


@keys(CASES)
def test_copies(pipe: Any, key: str) -> None:
    """Copies that nobody would watch are refused."""
    play(key, CASES[key], pipe)


def test_two_guards(pipe: Any, tmp_path: Path) -> None:
    """The row two-guards: a pipeline with a guard of its own, used in the other's callback, changes nothing there."""
    other = make_pipeline(tmp_path, seed=1)
    pair, inner = Pair(pipe, make_guard()), Pair(other, make_guard(multiplier=-2.0))

    def draw_other(_pipe: Any, _step: int, _timestep: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
        inner.check(draw(other))
        return kwargs

    try:
        pair.check(draw(pipe, callback_on_step_end=draw_other))
    finally:
        pair.guard.detach()


def test_save(pipe: Any, tmp_path: Path) -> None:
    """The row save: the guarded pipeline goes on, what it saved is unguarded and can be given a guard."""
    pair = Pair(pipe, make_guard())
    try:
        pipe.save_pretrained(tmp_path)
        pair.check(draw(pipe))
    finally:
        pair.guard.detach()
    loaded = StableDiffusionPipeline.from_pretrained(tmp_path, safety_checker=None)
    loaded.set_progress_bar_config(disable=True)
    assert torch.equal(draw(loaded), pair.unguarded)
    guard = make_guard(fingerprint=fingerprint(pipe))
    guard.attach(loaded)
    pair.check(draw(loaded))
