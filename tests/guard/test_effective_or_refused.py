"""While a guard is attached it is effective, or no image comes out."""

from __future__ import annotations

import copy
import inspect
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    PNDMScheduler,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionPipeline,
)

from saeuron_guard.errors import GuardNotEffective, ModelMismatch
from saeuron_guard.guard.guard import Guard
from saeuron_guard.pipelines.fingerprint import fingerprint
from tests.tiny import HOOKPOINTS, draw, make_guard, make_pipeline, patch

Attach = Callable[..., Guard]


def test_images_change_and_come_back_after_detach(pipe: Any, attach: Attach) -> None:
    """Unguarded, guarded, detached: the guarded image differs, the others are the same bit for bit."""
    before = draw(pipe)
    guard = attach()
    changed = draw(pipe)
    guard.detach()
    assert type(pipe) is StableDiffusionPipeline
    assert torch.equal(draw(pipe), before)
    assert float((changed - before).abs().max()) > 0.01


@pytest.mark.parametrize("settings", [{"threshold": 1e4}, {"strength": 0.0}, {"multiplier": 2.0, "mean": 0.5}], ids=str)
def test_images_are_identical_when_nothing_is_to_be_done(pipe: Any, attach: Attach, settings: dict[str, float]) -> None:
    """High thresholds, strength 0, or latents mapped onto themselves: not one bit of the image differs."""
    before = draw(pipe)
    guard = attach(**settings)
    assert torch.equal(draw(pipe), before)
    assert guard.report().calls == 3


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # diffusers' schedulers on numpy 2
@pytest.mark.parametrize(
    ("scheduler", "steps", "calls"),
    [
        (DDIMScheduler, 1, 1),
        (DDIMScheduler, 7, 7),
        (PNDMScheduler, 5, 6),
        (EulerDiscreteScheduler, 7, 7),
        (HeunDiscreteScheduler, 4, 7),
        (DPMSolverMultistepScheduler, 6, 6),
    ],
)
def test_any_scheduler_and_number_of_steps(
    pipe: Any, attach: Attach, scheduler: type[Any], steps: int, calls: int
) -> None:
    """Schedulers that call twice a step or have timesteps between whole numbers are guarded in every call."""
    stock = pipe.scheduler
    pipe.scheduler = scheduler.from_config(stock.config, skip_prk_steps=True)  # as SD 1.x configures PNDM
    try:
        before = draw(pipe, steps=steps)
        guard = attach()
        changed = draw(pipe, steps=steps)
        assert guard.report().calls == calls
        guard.detach()
        assert not torch.equal(changed, before)
        assert torch.equal(draw(pipe, steps=steps), before)
    finally:
        pipe.scheduler = stock


@pytest.mark.parametrize(
    "settings",
    [
        {"guidance": 1.0},
        {"guidance": 7.5},
        {"num_images_per_prompt": 3},
        {"prompt": ["a pistol", "a cat"]},
        {"height": 16, "width": 32},
        {"height": 24, "width": 8},
    ],
    ids=str,
)
def test_any_batch_and_size(pipe: Any, attach: Attach, settings: dict[str, Any]) -> None:
    """With and without classifier-free guidance, several images, maps that are not square: all are guarded."""
    before = draw(pipe, **settings)
    guard = attach()
    changed = draw(pipe, **settings)
    guard.detach()
    for image, other in zip(changed, before, strict=True):
        assert not torch.equal(image, other)


def test_image_to_image(pipe: Any) -> None:
    """A pipeline that starts in the middle of the schedule is guarded from there."""
    other = StableDiffusionImg2ImgPipeline(**pipe.components, requires_safety_checker=False)
    other.set_progress_bar_config(disable=True)
    start = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    before = draw(other, steps=10, image=start, strength=0.5)
    guard = make_guard().attach(other)
    changed = draw(other, steps=10, image=start, strength=0.5)
    assert guard.report().calls == 5
    guard.detach()
    guard.detach()
    assert not torch.equal(changed, before)


def test_two_images_in_a_row_are_the_same(pipe: Any, attach: Attach) -> None:
    """No state is carried from one image to the next."""
    guard = attach()
    first = draw(pipe)
    assert torch.equal(draw(pipe), first)
    assert guard.report().calls == 6


def remove_block_hook(pipe: Any) -> Callable[[], None]:
    """What offloading and quantisation of other libraries do to the hooks of a block."""
    pipe.unet.up_blocks[1].attentions[1]._forward_hooks.clear()
    return lambda: None


def remove_denoiser_hooks(pipe: Any) -> Callable[[], None]:
    """The same to the denoiser's."""
    pipe.unet._forward_hooks.clear()
    pipe.unet._forward_pre_hooks.clear()
    return lambda: None


def replace_denoiser(pipe: Any) -> Callable[[], None]:
    """Another model in place of the guarded one."""
    stock = pipe.unet
    pipe.unet = copy.deepcopy(stock)
    return lambda: setattr(pipe, "unet", stock)


def replace_block(pipe: Any) -> Callable[[], None]:
    """Another block in place of a guarded one."""
    attentions = pipe.unet.up_blocks[1].attentions
    stock = attentions[2]
    attentions[2] = copy.deepcopy(stock)
    return lambda: attentions.__setitem__(2, stock)


def call_block_forward(pipe: Any) -> Callable[[], None]:
    """What some speed-ups do: the block's forward() is called, so its hooks don't run."""
    block = pipe.unet.up_blocks[1]

    def forward(hidden_states: Any, res_hidden_states_tuple: Any, temb: Any, **kwargs: Any) -> Any:
        skips = list(res_hidden_states_tuple)
        for resnet, attention in zip(block.resnets, block.attentions, strict=True):
            hidden_states = resnet(torch.cat([hidden_states, skips.pop()], dim=1), temb)
            states = kwargs["encoder_hidden_states"]
            hidden_states = attention.forward(hidden_states, encoder_hidden_states=states, return_dict=False)[0]
        return hidden_states

    return patch(block, "forward", forward)


def skip_block(pipe: Any) -> Callable[[], None]:
    """What caches do: a block's result of the first step is used in all others."""
    block, cached = pipe.unet.up_blocks[1], []
    stock = block.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        if not cached:
            cached.append(stock(*args, **kwargs))
        return cached[0]

    return patch(block, "forward", forward)


def skip_denoiser(pipe: Any) -> Callable[[], None]:
    """A cache over the whole denoiser: later steps never run it."""
    unet, stock, cached = pipe.unet, type(pipe.unet), []

    class Cached(stock):  # type: ignore[misc, valid-type]
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            if not cached:
                cached.append(super().__call__(*args, **kwargs))
            return cached[0]

    unet.__class__ = Cached
    return lambda: setattr(unet, "__class__", stock)


def call_denoiser_forward(pipe: Any) -> Callable[[], None]:
    """The denoiser's own forward() is called, so its hooks don't run and the timestep is unknown."""
    unet, stock = pipe.unet, type(pipe.unet)

    class Direct(stock):  # type: ignore[misc, valid-type]
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            return self.forward(*args, **kwargs)

    unet.__class__ = Direct
    return lambda: setattr(unet, "__class__", stock)


@pytest.mark.parametrize(
    ("sabotage", "message"),
    [
        (remove_block_hook, "attentions.1 removed"),
        (remove_denoiser_hooks, "denoiser's start, denoiser's end removed"),
        (replace_denoiser, "pipe.unet is not the model"),
        (replace_block, "attentions.2 on blocks that are no longer part"),
        (call_block_forward, "without passing unet.up_blocks.1.attentions.1, unet.up_blocks.1.attentions.2"),
        (skip_block, "saw 0"),
        (skip_denoiser, "expected at least 3 guarded denoiser calls in this pipeline call, saw 1"),
        (call_denoiser_forward, "outside of a call of the denoiser"),
    ],
)
def test_a_bypassed_guard_withholds_the_image(
    pipe: Any, attach: Attach, sabotage: Callable[[Any], Callable[[], None]], message: str
) -> None:
    """However the guard is bypassed, GuardNotEffective is raised in place of the image, and detach still cleans up."""
    guard = attach()
    draw(pipe)
    repair = sabotage(pipe)
    with pytest.raises(GuardNotEffective, match=message):
        draw(pipe)
    repair()
    guard.detach()
    draw(pipe)


@pytest.mark.parametrize("cancelled", [False, True])
def test_a_hook_removed_in_the_middle_withholds_the_image(pipe: Any, attach: Attach, cancelled: bool) -> None:
    """Removing the hooks between two steps of one image is seen, too, also when the number of steps says nothing."""
    attach()

    def remove(running: Any, step: int, _timestep: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
        running._interrupt = cancelled and step == 2
        if step == 1:
            remove_denoiser_hooks(pipe)
            remove_block_hook(pipe)
            pipe.unet.up_blocks[1].attentions[2]._forward_hooks.clear()
        return kwargs

    with pytest.raises(GuardNotEffective, match="removed"):
        draw(pipe, callback_on_step_end=remove)


def test_no_timestep_is_left_over(pipe: Any, attach: Attach) -> None:
    """After a call of the denoiser, a call that bypasses its hooks finds no timestep to go by, and is refused."""
    attach()
    sample, states = torch.randn(1, 4, 8, 8), torch.randn(1, 16, 32)
    with torch.no_grad():
        pipe.unet(sample, 500, states)
        with pytest.raises(GuardNotEffective, match="outside of a call of the denoiser"):
            pipe.unet.forward(sample, 500, states)


def test_an_interrupted_image_is_guarded_as_far_as_it_went(pipe: Any, attach: Attach) -> None:
    """Cancelling in the pipeline's own way gives the unfinished image, as without a guard."""
    guard = attach()

    def stop(running: Any, step: int, _timestep: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
        running._interrupt = step == 1
        return kwargs

    draw(pipe, steps=5, callback_on_step_end=stop)
    assert guard.report().calls == 2


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt()], ids=repr)
def test_an_exception_leaves_nothing_behind(pipe: Any, attach: Attach, error: BaseException) -> None:
    """After an exception in the middle of a call the next image is what it would have been."""
    attach()
    wanted = draw(pipe)
    block = pipe.unet.up_blocks[1].resnets[2]

    def fail(*_: Any) -> Any:
        raise error

    repair = patch(block, "forward", fail)
    with pytest.raises(type(error)):
        draw(pipe)
    repair()
    assert torch.equal(draw(pipe), wanted)


def test_a_timestep_far_from_all_calibrated_ones_is_refused(pipe: Any, attach: Attach) -> None:
    """Beyond the declared gap there is no telling what the features mean, so the call is refused."""
    guard = attach()
    sample, states = torch.randn(1, 4, 8, 8), torch.randn(1, 16, 32)
    with torch.no_grad():
        pipe.unet(sample, 990, states)
        pipe.unet(sample, torch.tensor([500.5]), encoder_hidden_states=states)
        for timestep in (1050, torch.tensor(float("nan")), -25.0):
            with pytest.raises(GuardNotEffective, match="away from the nearest calibrated one"):
                pipe.unet(sample, timestep, states)
    assert guard.report().calls == 2


def test_rows_may_have_timesteps_of_their_own(pipe: Any, attach: Attach) -> None:
    """A denoiser call with one timestep a row edits each row for its own."""
    guard = attach()
    generator = torch.Generator().manual_seed(0)
    sample, states = torch.randn(2, 4, 8, 8, generator=generator), torch.randn(2, 16, 32, generator=generator)
    with torch.no_grad():
        together = pipe.unet(sample, torch.tensor([981, 21]), states).sample
        alone = [pipe.unet(sample[i : i + 1], t, states[i : i + 1]).sample for i, t in enumerate((981, 21))]
    guard.detach()
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-4, rtol=1e-4)


def test_only_one_guard_at_a_time(pipe: Any, attach: Attach) -> None:
    """A guard attached twice, a second guard, and a second pipeline on the same denoiser are refused."""
    guard = attach()
    other = StableDiffusionPipeline(**pipe.components, requires_safety_checker=False)
    with pytest.raises(GuardNotEffective, match="already attached"):
        guard.attach(pipe)
    for target in (pipe, other):
        with pytest.raises(GuardNotEffective, match="already carries a guard"):
            make_guard().attach(target)
    draw(pipe)
    guard.detach()
    guard.detach()
    guard.attach(other).detach()


def test_a_copy_of_a_guarded_pipeline_is_refused(pipe: Any, attach: Attach) -> None:
    """A copy, or another pipeline of the guarded class, would run hooks that nobody watches; the original goes on."""
    attach()
    for copying in (copy.copy, copy.deepcopy):
        with pytest.raises(GuardNotEffective, match="can be neither copied nor pickled"):
            copying(pipe)
    twin = type(pipe)(**pipe.components, requires_safety_checker=False)
    with pytest.raises(GuardNotEffective, match="made from a guarded one"):
        draw(twin)
    with pytest.raises(GuardNotEffective, match="already carries a guard"):
        make_guard().attach(twin)
    draw(pipe)


def test_another_model_is_refused(pipe: Any, tmp_path: Path) -> None:
    """Wrong fingerprint, missing block, other width, no such denoiser: ModelMismatch, and nothing is installed."""
    make_guard(fingerprint=fingerprint(pipe)).attach(pipe).detach()
    with pytest.raises(ModelMismatch, match="holds another model"):
        make_guard(fingerprint=fingerprint(make_pipeline(tmp_path, seed=1))).attach(pipe)


def test_a_guarded_pipeline_saves_and_converts_as_before(pipe: Any, attach: Attach, tmp_path: Path) -> None:
    """Class name and signature survive, so save_pretrained and from_pipe work; what is saved is not guarded."""
    wanted = draw(pipe)
    guard = attach()
    assert (type(pipe).__name__, type(pipe).__module__) == (
        StableDiffusionPipeline.__name__,
        StableDiffusionPipeline.__module__,
    )
    assert inspect.signature(type(pipe).__call__) == inspect.signature(StableDiffusionPipeline.__call__)
    assert isinstance(pipe, StableDiffusionPipeline)
    pipe.save_pretrained(tmp_path)
    converted = StableDiffusionImg2ImgPipeline.from_pipe(pipe)
    assert type(converted) is StableDiffusionImg2ImgPipeline
    guard.detach()
    loaded = StableDiffusionPipeline.from_pretrained(tmp_path, safety_checker=None)
    loaded.set_progress_bar_config(disable=True)
    assert torch.equal(draw(loaded), wanted)


def test_threads_share_a_model_but_not_their_state(pipe: Any, attach: Attach) -> None:
    """Two threads in the same guarded UNet at different timesteps get what each gets alone."""
    guard = attach()
    generator = torch.Generator().manual_seed(0)
    sample, states = torch.randn(1, 4, 8, 8, generator=generator), torch.randn(1, 16, 32, generator=generator)

    def denoise(timestep: int) -> torch.Tensor:
        with torch.no_grad():
            return pipe.unet(sample, timestep, states).sample

    timesteps = (981, 21)
    wanted = [denoise(timestep) for timestep in timesteps]
    wrong: list[object] = []
    barrier = threading.Barrier(2, timeout=60)

    def work(index: int) -> None:
        try:
            for _ in range(8):
                barrier.wait()
                if not torch.equal(denoise(timesteps[index]), wanted[index]):
                    wrong.append(index)
        except (GuardNotEffective, threading.BrokenBarrierError) as error:
            wrong.append(error)
            barrier.abort()

    threads = [threading.Thread(target=work, args=(index,)) for index in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert guard.report().calls == 18


def test_two_guards_on_two_pipelines_do_not_mix(pipe: Any, attach: Attach, tmp_path: Path) -> None:
    """Two pipelines with guards of their own, used in turn and inside each other, keep their counts apart."""
    other = make_pipeline(tmp_path, seed=1)
    first, second = attach(), make_guard(threshold=0.5).attach(other)
    wanted = draw(pipe)

    def draw_other(_pipe: Any, _step: int, _timestep: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
        draw(other, steps=2)
        return kwargs

    assert torch.equal(draw(pipe, callback_on_step_end=draw_other), wanted)
    assert (first.report().calls, second.report().calls) == (6, 6)


def test_the_status_tells_a_probe(pipe: Any) -> None:
    """status() follows the guard from unattached to ready, to tampered with, to detached."""
    guard = make_guard()
    assert not guard.status().ready
    guard.attach(pipe)
    draw(pipe)
    status = guard.status()
    assert (status.ready, status.calls, status.hookpoints) == (True, 3, HOOKPOINTS)
    assert status.digest == guard.config.digest
    remove_block_hook(pipe)
    assert guard.status().attached
    assert not guard.status().ready
    guard.detach()
    assert not guard.status().attached
