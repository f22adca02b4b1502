"""A fingerprint tells models apart and stays the same for one model, however it is loaded."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from diffusers import EulerDiscreteScheduler, StableDiffusionPipeline

from saeuron_guard.errors import ModelMismatch
from saeuron_guard.pipelines.fingerprint import fingerprint
from tests.tiny import make_pipeline


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory) -> StableDiffusionPipeline:
    """The tiny pipeline, which tests here copy before changing it."""
    return make_pipeline(tmp_path_factory.mktemp("tiny"))


@pytest.mark.parametrize(
    "dtypes",
    [
        (torch.float16,),
        (torch.bfloat16,),
        (torch.float16, torch.float32),
        (torch.float16, torch.bfloat16),
        (torch.bfloat16, torch.float16),
        (torch.float64,),
    ],
    ids=str,
)
def test_dtypes_keep_the_fingerprint(stock: StableDiffusionPipeline, dtypes: tuple[torch.dtype, ...]) -> None:
    """Every way between the floating dtypes, weights too small for float16 included, gives the same fingerprint."""
    pipe = copy.deepcopy(stock)
    with torch.no_grad():
        pipe.unet.conv_in.weight.mul_(1e-9)
    wanted = fingerprint(pipe)
    for dtype in dtypes:
        for component in (pipe.unet, pipe.vae, pipe.text_encoder):
            component.to(dtype)
    assert fingerprint(pipe) == wanted


def test_saving_scheduler_and_layout_keep_the_fingerprint(stock: StableDiffusionPipeline, tmp_path: Path) -> None:
    """Save and load, another scheduler, channels-last weights: still the same model."""
    wanted = fingerprint(stock)
    stock.save_pretrained(tmp_path)
    pipe = StableDiffusionPipeline.from_pretrained(tmp_path, safety_checker=None)
    pipe.scheduler = EulerDiscreteScheduler.from_config(pipe.scheduler.config)
    pipe.unet.to(memory_format=torch.channels_last)
    assert fingerprint(pipe) == wanted


@pytest.mark.parametrize("component", ["unet", "vae", "text_encoder"])
def test_other_weights_change_the_fingerprint(stock: StableDiffusionPipeline, component: str) -> None:
    """Noise of a hundredth of the weights, in any one component, is another model."""
    pipe = copy.deepcopy(stock)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in getattr(pipe, component).parameters():
            scale = 0.01 * float(parameter.abs().mean())
            parameter.add_(torch.empty_like(parameter).normal_(0, scale + 1e-12, generator=generator))
    assert fingerprint(pipe) != fingerprint(stock)


def test_another_architecture_changes_the_fingerprint(stock: StableDiffusionPipeline, tmp_path: Path) -> None:
    """Another seed, and a parameter that goes by another name, are other models."""
    assert fingerprint(make_pipeline(tmp_path, seed=1)) != fingerprint(stock)
    pipe = copy.deepcopy(stock)
    pipe.unet.renamed, pipe.unet.conv_in = pipe.unet.conv_in, torch.nn.Identity()
    assert fingerprint(pipe) != fingerprint(stock)


def test_weights_that_are_elsewhere_are_said_to_be(stock: StableDiffusionPipeline) -> None:
    """Weights on the meta device, where sequential offload leaves them, can't be told: an error says what to do."""
    pipe = copy.deepcopy(stock)
    pipe.unet.to("meta")
    with pytest.raises(ModelMismatch, match="before enabling sequential offload"):
        fingerprint(pipe)
