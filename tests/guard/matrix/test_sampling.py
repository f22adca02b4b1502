"""The matrix's rows about schedulers, steps, guidance, batches and tasks."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor

from tests.guard.matrix.stage import Act, Case, keys, play
from tests.tiny import draw, make_guard

pytestmark = [  # diffusers' schedulers on numpy 2
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:__array_wrap__ must accept:DeprecationWarning"),
]


def scheduler(name: str, **settings: Any) -> Act:
    """Gives a pipeline another scheduler, of the same noise levels; PNDM as SD 1.x configures it."""

    def change(pipe: Any) -> None:
        kind = getattr(diffusers, name)
        pipe.scheduler = kind.from_config({**pipe.scheduler.config, "skip_prk_steps": True, **settings})

    return change


def with_scheduler(name: str, **settings: Any) -> Case:
    """A few steps of a scheduler that the pipeline was given before the guard was attached."""
    return Case(before=scheduler(name, **settings), call=partial(draw, steps=4))


def steps(number: int) -> Case:
    """So many steps, without guidance, which would take twice as long."""
    return Case(call=partial(draw, steps=number, guidance=1.0))


def task(**inputs: Callable[[], Tensor]) -> Callable[[Any], Tensor]:
    """Draws by another of Stable Diffusion's pipelines, which the pipeline is turned into."""

    def call(pipe: Any) -> Tensor:
        given = {key: make() for key, make in inputs.items()}
        return draw(pipe, steps=8, strength=0.5, **given)

    return call


def into(name: str) -> Act:
    """Turns a pipeline into another one of the same components."""

    def change(pipe: Any) -> None:
        pipe.__class__ = getattr(diffusers, name)
        pipe.mask_processor = diffusers.image_processor.VaeImageProcessor(
            vae_scale_factor=2, do_normalize=False, do_binarize=True, do_convert_grayscale=True
        )

    return change


def picture() -> Tensor:
    """Something to start from."""
    return torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def mask() -> Tensor:
    """The left half."""
    return (torch.arange(16) < 8).float().expand(1, 1, 16, 16)


def contexts(pipe: Any) -> Tensor:
    """One picture in each of PyTorch's contexts that change how a model computes."""
    with torch.inference_mode():
        first = draw(pipe)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        second = draw(pipe)
    return torch.cat([first, second]).clone()


CASES = {
    "ddim": with_scheduler("DDIMScheduler"),
    "pndm": with_scheduler("PNDMScheduler"),
    "euler": with_scheduler("EulerDiscreteScheduler"),
    "heun": with_scheduler("HeunDiscreteScheduler"),
    "dpmpp-2m": with_scheduler("DPMSolverMultistepScheduler", use_karras_sigmas=True),
    "unipc": with_scheduler("UniPCMultistepScheduler"),
    "lcm": with_scheduler("LCMScheduler"),
    "kdpm2": with_scheduler("KDPM2DiscreteScheduler"),
    "edm": with_scheduler("EDMDPMSolverMultistepScheduler"),
    "euler-continuous": with_scheduler(
        "EulerDiscreteScheduler", timestep_type="continuous", prediction_type="v_prediction"
    ),
    **{f"{number}-steps": steps(number) for number in (2, 7, 50, 100)},
    "1-step": steps(1),
    "far-timestep": Case(call=partial(draw, timesteps=[1100, 500]), before=scheduler("EulerDiscreteScheduler")),
    "no-guidance": Case(call=partial(draw, guidance=1.0)),
    "guidance": Case(call=partial(draw, guidance=7.5)),
    "conditional": Case(guard=partial(make_guard, branches="conditional"), alike=2.0),
    "images-per-prompt": Case(call=partial(draw, num_images_per_prompt=3)),
    "prompts": Case(call=partial(draw, prompt=["a pistol", "a cat"])),
    "not-square": Case(call=partial(draw, height=16, width=32)),
    "img2img": Case(before=into("StableDiffusionImg2ImgPipeline"), call=task(image=picture)),
    "inpaint": Case(before=into("StableDiffusionInpaintPipeline"), call=task(image=picture, mask_image=mask)),
    "autocast": Case(call=contexts, alike=0.2),
}


@keys(CASES)
def test_sampling(pipe: Any, key: str) -> None:
    """Whatever the scheduler, the number of steps, the guidance and the batch: as the matrix says."""
    play(key, CASES[key], pipe)
