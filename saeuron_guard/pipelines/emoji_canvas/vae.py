"""The autoencoder of EmojiCanvas: 64 x 64 pictures to 4 x 16 x 16 VAE latents and back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor

from saeuron_guard.pipelines.emoji_canvas.renders import Renders
from saeuron_guard.pipelines.emoji_canvas.training import Log, Recipe, fit

RECIPE = Recipe(steps=3600, peak=2e-3, seed=11, weight_decay=0.0, betas=(0.9, 0.99), average=0.995)
BATCH = 16


def new_vae() -> AutoencoderKL:
    """An untrained autoencoder; its scaling factor is 1 because the scale is folded into it after training."""
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(32, 64, 96),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=64,
        scaling_factor=1.0,
        mid_block_add_attention=False,
    )


def to_pixels(pictures: np.ndarray) -> Tensor:
    """(n, height, width, 3) bytes to (n, 3, height, width) floats in [-1, 1]."""
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float().div_(127.5).sub_(1)


def train_vae(renders: Renders, folder: Path, log: Log) -> AutoencoderKL:
    """Train the autoencoder on ``renders``; L1 + MSE + 0.5 edge L1 + 1e-3 KL."""
    torch.manual_seed(RECIPE.seed)
    vae = new_vae()

    def loss(generator: torch.Generator) -> Tensor:
        rows = torch.randint(len(renders.pictures), (BATCH,), generator=generator)
        pixels = to_pixels(renders.pictures[rows.numpy()])
        with torch.autocast("cpu", dtype=torch.bfloat16):
            posterior = vae.encode(pixels).latent_dist
            noise = torch.randn(posterior.mean.shape, generator=generator)
            decoded = vae.decode(posterior.mean + posterior.std * noise).sample
        decoded = decoded.float()
        error = decoded - pixels
        edges = (error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()) / 2
        divergence = posterior.kl().float().mean() / posterior.mean[0].numel()
        return error.abs().mean() + error.square().mean() + 0.5 * edges + 1e-3 * divergence

    fit(vae, loss, RECIPE, folder / "vae.safetensors", log)
    vae.eval()
    _fold_scale(vae, renders)
    return vae


@torch.no_grad()
def encode_all(vae: AutoencoderKL, pictures: np.ndarray, batch: int = 64) -> Tensor:
    """Posterior means (n, 4, 16, 16) of ``pictures``."""
    parts = [vae.encode(to_pixels(part)).latent_dist.mean for part in _batches(pictures, batch)]
    return torch.cat(parts)


@torch.no_grad()
def psnr(vae: AutoencoderKL, pictures: np.ndarray, batch: int = 64) -> float:
    """Peak signal-to-noise ratio in dB of the reconstructions, over all pixels of ``pictures``."""
    total, count = 0.0, 0
    for part in _batches(pictures, batch):
        pixels = to_pixels(part)
        decoded = vae.decode(vae.encode(pixels).latent_dist.mean).sample.clamp(-1, 1)
        total += float((decoded - pixels).square().sum())
        count += pixels.numel()
    return float(10 * np.log10(4.0 / (total / count)))


def _batches(pictures: np.ndarray, batch: int) -> list[np.ndarray]:
    return [pictures[start : start + batch] for start in range(0, len(pictures), batch)]


@torch.no_grad()
def _fold_scale(vae: AutoencoderKL, renders: Renders) -> None:
    """Rescale ``quant_conv`` and ``post_quant_conv`` so that VAE latents have mean 0 and spread 1 per channel.

    The stock pipeline knows one scale for all channels and no shift; folded in, it needs neither.
    """
    latents = encode_all(vae, renders.pictures[:: max(1, len(renders.pictures) // 1500)])
    mean, spread = latents.mean(dim=(0, 2, 3)), latents.std(dim=(0, 2, 3))
    channels = len(mean)
    quant, post = vae.quant_conv, vae.post_quant_conv
    quant.weight[:channels] /= spread[:, None, None, None]
    quant.bias[:channels] = (quant.bias[:channels] - mean) / spread
    quant.bias[channels:] -= 2 * spread.log()
    post.bias += (post.weight[:, :, 0, 0] * mean).sum(dim=1)
    post.weight *= spread[None, :, None, None]
