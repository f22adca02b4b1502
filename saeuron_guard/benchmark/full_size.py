"""A denoiser of SD 1.5's size and SAEs in the layout of SAeUron's public checkpoints, with random weights.

Random weights say nothing about quality; the number of operations is that of trained ones.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import save_file
from torch import Tensor

from saeuron_guard.compiler.config import FeatureEdit, GuardConfig, HookpointConfig, Rule
from saeuron_guard.compiler.files import guard_digest
from saeuron_guard.names import GUARD_FORMAT
from saeuron_guard.sae.sparse_coder import SparseCoder

HOOKPOINTS: Final = ("unet.up_blocks.1.attentions.1", "unet.up_blocks.1.attentions.2")
"""Those of SAeUron's SAEs."""

TIMESTEPS: Final = tuple(range(981, 0, -20))
"""As 50 steps of DDIM have them with SD 1.5's settings."""

LEVEL: Final = 100.0
"""Where the pre-activations of the made features lie, in units of the activation's own spread: always in the top k."""


@dataclass(frozen=True, slots=True)
class FullSize:
    """What is built; the defaults are SD 1.5 with pictures of 512 x 512, and SAeUron's SAEs.

    ``unet``: what differs from diffusers' defaults, which are SD 1.x's but for the width of the text's embeddings.
    ``sample``: height and width of the VAE's latents; ``features``: how many the guard edits at each hookpoint.
    """

    name: str = "sd15"
    sample: int = 64
    unet: Mapping[str, Any] = field(default_factory=lambda: {"cross_attention_dim": 768})
    tokens: int = 77
    d_in: int = 1280
    expansion: int = 16
    k: int = 32
    features: int = 3
    seed: int = 0

    @property
    def latents(self) -> int:
        """The number of each SAE's latents."""
        return self.d_in * self.expansion


SIZES: Final = {
    "sd15": FullSize(),
    "small": FullSize(
        name="small",
        sample=16,
        unet={"cross_attention_dim": 64, "block_out_channels": (32, 64, 64, 64), "norm_num_groups": 8},
        tokens=8,
        d_in=64,
        k=8,
    ),
}
"""``small`` has the same blocks, narrow ones: it shows that all works, and no times worth knowing."""


def make_pipeline(size: FullSize) -> StableDiffusionPipeline:
    """A pipeline of a UNet and a scheduler; it takes embeddings and gives the VAE's latents."""
    with torch.device("meta"):
        unet = UNet2DConditionModel(sample_size=size.sample, **size.unet)
    unet.to_empty(device="cpu").eval().requires_grad_(requires_grad=False)
    generator = torch.Generator().manual_seed(size.seed)
    for name, parameter in unet.named_parameters():
        if parameter.ndim > 1:  # of this spread, activations neither grow nor vanish from layer to layer
            parameter.normal_(0, parameter[0].numel() ** -0.5, generator=generator)
        else:
            parameter.fill_(1.0 if "norm" in name and name.endswith("weight") else 0.0)
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    pipe = StableDiffusionPipeline(
        vae=None,
        text_encoder=None,
        tokenizer=None,
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def draw(pipe: StableDiffusionPipeline, size: FullSize) -> Tensor:
    """One denoising step with classifier-free guidance, two rows; the same each time. Gives the VAE's latents."""
    generator = torch.Generator().manual_seed(size.seed)
    width = pipe.unet.config.cross_attention_dim
    with_text, without = (torch.randn((1, size.tokens, width), generator=generator) for _ in range(2))
    noise = torch.randn((1, 4, size.sample, size.sample), generator=generator)
    found: Tensor = pipe(
        prompt_embeds=with_text,
        negative_prompt_embeds=without,
        latents=noise,
        num_inference_steps=1,
        guidance_scale=7.5,
        output_type="latent",
    ).images
    return found


def write_checkpoints(folder: Path, size: FullSize, activations: Mapping[str, Tensor]) -> None:
    """SAEs below ``folder`` as SAeUron publishes them: a folder a hookpoint, ``cfg.json`` and ``sae.safetensors``.

    ``activations`` (positions, d_in) at each hookpoint.  Latents are random but for the first ``features``: these
    are among the top k everywhere, so that a threshold alone decides where they fire.
    """
    config = {
        "expansion_factor": size.expansion, "normalize_decoder": True, "num_latents": 0, "k": size.k,
        "batch_topk": True, "sample_topk": False, "input_unit_norm": False, "multi_topk": False, "d_in": size.d_in,
    }  # fmt: skip
    for number, (hookpoint, x) in enumerate(activations.items()):
        generator = torch.Generator().manual_seed(size.seed + number)
        weight = torch.randn((size.latents, size.d_in), generator=generator) / size.d_in**0.5
        weight[: size.features] = weight[0].clone()
        bias = torch.zeros(size.latents)
        bias[: size.features] = LEVEL * x.std()
        own = folder / hookpoint
        own.mkdir(parents=True)
        tensors = {
            "encoder.weight": weight,
            "encoder.bias": bias,
            "W_dec": weight / weight.norm(dim=1, keepdim=True),
            "b_dec": x.mean(dim=0),
        }
        save_file(tensors, own / "sae.safetensors")
        (own / "cfg.json").write_text(json.dumps(config), encoding="utf-8")


def fitted_config(
    size: FullSize, coders: Mapping[str, SparseCoder], activations: Mapping[str, Tensor], share: float, model: str
) -> GuardConfig:
    """A guard whose concept fires at ``share`` of the positions of ``activations``, and changes next to nothing."""
    points = []
    for hookpoint, coder in coders.items():
        latents = coder.pre_activations(activations[hookpoint][None])[0, :, 0]
        nowhere, everywhere = 2 * latents.max(), latents.min() / 2
        threshold = float({0.0: nowhere, 1.0: everywhere}.get(share, latents.quantile(1 - share)))
        times = len(TIMESTEPS)
        edits = tuple(
            FeatureEdit(index, 1.0, index + 1, (True,) * times, (0.999,) * times, (threshold,) * times)
            for index in range(size.features)
        )
        rule = Rule("concept", "object", "scale", "enforce", "medium", 0.25, 1.0, 1.0, edits, "made for a benchmark")
        sizes = coder.config
        points.append(
            HookpointConfig(
                hookpoint=hookpoint,
                sae=f"random/{hookpoint}",
                sae_path=hookpoint,
                sae_digest=coder.digest,
                statistics_digest="sha256:" + "0" * 64,
                d_in=sizes.d_in,
                num_latents=sizes.num_latents,
                k=sizes.k,
                timesteps=TIMESTEPS,
                largest_gap=20,
                rules=(rule,),
            )
        )
    unpinned = GuardConfig(
        format=GUARD_FORMAT,
        policy_name="overhead",
        policy_version="1",
        policy_digest="sha256:" + "0" * 64,
        model=size.name,
        model_fingerprint=model,
        branches="all",
        hookpoints=tuple(points),
        merges=(),
        collisions=(),
        waivers=(),
        digest="",
    )
    return replace(unpinned, digest=guard_digest(unpinned))
