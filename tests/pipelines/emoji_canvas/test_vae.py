"""The autoencoder's numbers: pixels, PSNR, and VAE latents of mean 0 and spread 1 without a scale of their own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from torch import Tensor

from saeuron_guard.pipelines.emoji_canvas import vae as module
from saeuron_guard.pipelines.emoji_canvas.renders import Renders
from saeuron_guard.pipelines.emoji_canvas.vae import encode_all, new_vae, psnr, to_pixels, train_vae


class OffByVae:
    """Restores every picture too bright or too dark by ``error``, of which pixels run from -1 to 1."""

    def __init__(self, error: float) -> None:
        self.error = error

    def encode(self, pixels: Tensor) -> Any:
        """The pixels are their own latents."""
        return SimpleNamespace(latent_dist=SimpleNamespace(mean=pixels))

    def decode(self, latents: Tensor) -> Any:
        """The pixels, moved towards the middle, so that nothing is clipped."""
        return SimpleNamespace(sample=latents - self.error * latents.sign())


@pytest.fixture(scope="module")
def renders() -> Renders:
    """Seven pictures of coloured rectangles."""
    rng = np.random.default_rng(0)
    pictures = np.repeat(rng.integers(0, 256, (7, 1, 1, 3), dtype=np.uint8), 64, axis=1).repeat(64, axis=2)
    for picture in pictures:
        top, left = rng.integers(0, 32, 2)
        picture[top : top + 30, left : left + 30] = rng.integers(0, 256, 3)
    labels = np.zeros(7, dtype=np.int64)
    return Renders(pictures, labels, labels, labels - 1)


@pytest.fixture(scope="module")
def untrained() -> AutoencoderKL:
    """An untrained autoencoder."""
    torch.manual_seed(0)
    return new_vae().eval()


def test_pixels_run_from_minus_one_to_one() -> None:
    """0 is -1, 255 is 1, colours come first, and the rows of a picture stay its rows."""
    pictures = np.zeros((2, 4, 6, 3), dtype=np.uint8)
    pictures[1, 2, 5] = (255, 51, 0)
    pixels = to_pixels(pictures)
    assert pixels.shape == (2, 3, 4, 6)
    assert pixels[1, :, 2, 5] == pytest.approx([1.0, -0.6, -1.0])
    assert (pixels == -1).sum() == pixels.numel() - 2
    assert not pictures[0].any()


def test_latents_are_sixteen_by_sixteen_and_batches_do_not_matter(untrained: AutoencoderKL, renders: Renders) -> None:
    """One (4, 16, 16) mean a picture, in the order of the pictures, whatever the batch size."""
    latents = encode_all(untrained, renders.pictures, batch=5)
    assert latents.shape == (7, 4, 16, 16)
    torch.testing.assert_close(latents, encode_all(untrained, renders.pictures, batch=7), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(latents[5:6], encode_all(untrained, renders.pictures[5:6]), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(latents[5], latents[6], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("error", "decibels"), [(0.2, 20.0), (0.02, 40.0)])
def test_psnr_is_that_of_a_known_error(renders: Renders, error: float, decibels: float) -> None:
    """10 log10(range^2 / mse), the range of pixels being 2; the last, smaller batch counts by its pixels."""
    assert psnr(OffByVae(error), renders.pictures, batch=5) == pytest.approx(decibels, abs=1e-3)


def test_folding_gives_latents_mean_zero_and_spread_one(renders: Renders) -> None:
    """Afterwards each channel's VAE latents have mean 0 and spread 1, and the pictures are restored as before."""
    torch.manual_seed(0)
    vae = new_vae().eval()
    with torch.no_grad():
        vae.quant_conv.bias.add_(torch.tensor([3.0, -2.0, 0.5, 0.0, 0.0, 0.0, 0.0, 0.0]))
        vae.quant_conv.weight[:4].mul_(torch.tensor([4.0, 0.5, 1.0, 9.0])[:, None, None, None])
        pixels = to_pixels(renders.pictures)
        before = vae.encode(pixels).latent_dist
        restored = vae.decode(before.mean).sample
        spread = before.mean.std(dim=(0, 2, 3))
        assert before.mean.mean(dim=(0, 2, 3)).abs().max() > 1
        assert max(spread.max(), 1 / spread.min()) > 2
        module._fold_scale(vae, renders)
        after = vae.encode(pixels).latent_dist
        assert after.mean.mean(dim=(0, 2, 3)).abs().max() < 1e-4
        torch.testing.assert_close(after.mean.std(dim=(0, 2, 3)), torch.ones(4), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(after.std, before.std / spread[:, None, None], rtol=1e-3, atol=1e-5)
        torch.testing.assert_close(vae.decode(after.mean).sample, restored, rtol=1e-4, atol=1e-4)
    assert vae.config.scaling_factor == 1.0


def test_training_starts_and_ends_as_promised(
    renders: Renders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A short training is repeatable, changes the weights, and ends scaled and in evaluation mode."""
    monkeypatch.setattr(module, "RECIPE", replace(module.RECIPE, steps=2))
    monkeypatch.setattr(module, "BATCH", 2)
    lines: list[str] = []
    vae = train_vae(renders, tmp_path, lines.append)
    assert not vae.training
    assert lines[-1].startswith("step 2/2  loss ")
    latents = encode_all(vae, renders.pictures)
    torch.testing.assert_close(latents.std(dim=(0, 2, 3)), torch.ones(4), rtol=1e-3, atol=1e-3)
    again = train_vae(renders, tmp_path, lines.append)  # from the finished checkpoint
    assert torch.equal(encode_all(again, renders.pictures), latents)
    torch.manual_seed(module.RECIPE.seed)
    first = dict(new_vae().named_parameters())
    assert all(not torch.equal(value, first[name]) for name, value in vae.named_parameters() if "weight" in name)
