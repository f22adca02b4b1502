"""A Stable Diffusion pipeline of real diffusers classes, small and untrained, with SAEs and a guard to match."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from saeuron_guard.compiler.config import FeatureEdit, GuardConfig, HookpointConfig, Rule
from saeuron_guard.compiler.files import guard_digest
from saeuron_guard.guard.guard import Guard
from saeuron_guard.names import GUARD_FORMAT
from saeuron_guard.sae.config import SparseCoderConfig
from saeuron_guard.sae.sparse_coder import SparseCoder

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

HOOKPOINTS = ("unet.up_blocks.1.attentions.1", "unet.up_blocks.1.attentions.2")
CHANNELS = 32
LATENTS = 64
K = 8
TIMESTEPS = tuple(range(981, 0, -20))
"""As 50 steps of DDIM with SD 1.5's settings have them."""


def write_tokenizer(folder: Path) -> None:
    """A CLIP tokenizer that knows single letters only."""
    letters = [chr(code) for code in range(ord("!"), ord("~") + 1)]
    words = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({word: number for number, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")


def make_pipeline(folder: Path, seed: int = 0) -> StableDiffusionPipeline:
    """A pipeline with random weights: pictures 16x16, vae_latents 8x8, ``up_blocks.1.attentions.{0,1,2}`` at 8x8."""
    # Here, because programs that tests start make guards and no pipeline, and these imports take them seconds.
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    write_tokenizer(folder)
    tokenizer = CLIPTokenizer.from_pretrained(folder, model_max_length=16)
    torch.manual_seed(seed)
    end = tokenizer.eos_token_id
    pipe = StableDiffusionPipeline(
        vae=AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            block_out_channels=(8, 16),
            norm_num_groups=4,
            latent_channels=4,
            sample_size=16,
            scaling_factor=1.0,
        ).eval(),
        text_encoder=CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(tokenizer),
                hidden_size=32,
                intermediate_size=64,
                num_hidden_layers=1,
                num_attention_heads=2,
                max_position_embeddings=16,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=end,
                pad_token_id=end,
            )
        ).eval(),
        tokenizer=tokenizer,
        unet=UNet2DConditionModel(
            sample_size=8,
            block_out_channels=(CHANNELS, 64),
            layers_per_block=2,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            cross_attention_dim=32,
            attention_head_dim=4,
            norm_num_groups=8,
        ).eval(),
        scheduler=DDIMScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            clip_sample=False,
            set_alpha_to_one=False,
            steps_offset=1,
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def make_coder(seed: int = 0, *, d_in: int = CHANNELS, num_latents: int = LATENTS, k: int = K) -> SparseCoder:
    """An SAE with random weights, biases included."""
    generator = torch.Generator().manual_seed(seed)
    coder = SparseCoder(SparseCoderConfig(d_in=d_in, num_latents=num_latents, k=k), generator=generator)
    with torch.no_grad():
        coder.encoder.bias.normal_(0, 0.1, generator=generator)
        coder.b_dec.normal_(0, 0.1, generator=generator)
    return coder.requires_grad_(False)


def make_rule(
    concept: str,
    features: Sequence[int],
    *,
    strength: float = 1.0,
    multiplier: float = -4.0,
    mean: float = 1.0,
    threshold: float = 0.05,
    times: int = len(TIMESTEPS),
) -> Rule:
    """A rule that is the same at every timestep."""
    edits = tuple(
        FeatureEdit(index, 1.0, rank, (True,) * times, (mean,) * times, (threshold,) * times)
        for rank, index in enumerate(features)
    )
    return Rule(concept, "object", "scale", "enforce", "medium", 0.25, strength, multiplier, edits, "made for a test")


def make_point(
    hookpoint: str, coder: SparseCoder, rules: Sequence[Rule], *, timesteps: tuple[int, ...] = TIMESTEPS, gap: int = 20
) -> HookpointConfig:
    """The configuration of one hookpoint."""
    sizes = coder.config
    return HookpointConfig(
        hookpoint=hookpoint,
        sae=f"tiny/{hookpoint}",
        sae_path=f"saes/{hookpoint}",
        sae_digest=coder.digest,
        statistics_digest="sha256:" + "0" * 64,
        d_in=sizes.d_in,
        num_latents=sizes.num_latents,
        k=sizes.k,
        timesteps=timesteps,
        largest_gap=gap,
        rules=tuple(rules),
    )


def make_config(points: Sequence[HookpointConfig], *, fingerprint: str = "", branches: str = "all") -> GuardConfig:
    """A guard's configuration, with its digest."""
    unpinned = GuardConfig(
        format=GUARD_FORMAT,
        policy_name="tiny",
        policy_version="1",
        policy_digest="sha256:" + "1" * 64,
        model="tiny",
        model_fingerprint=fingerprint,
        branches=branches,
        hookpoints=tuple(points),
        merges=(),
        collisions=(),
        waivers=(),
        digest="",
    )
    return replace(unpinned, digest=guard_digest(unpinned))


def make_guard(
    *,
    strength: float = 1.0,
    multiplier: float = -4.0,
    mean: float = 1.0,
    threshold: float = 0.05,
    fingerprint: str = "",
    branches: str = "all",
) -> Guard:
    """A guard with two concepts at the first hookpoint and one at the second; its features fire all over the place."""
    settings = {"strength": strength, "multiplier": multiplier, "mean": mean, "threshold": threshold}
    coders = {hookpoint: make_coder(seed) for seed, hookpoint in enumerate(HOOKPOINTS)}
    points = [
        make_point(
            HOOKPOINTS[0],
            coders[HOOKPOINTS[0]],
            [make_rule("pistol", range(8), **settings), make_rule("knife", range(8, 12), **settings)],
        ),
        make_point(HOOKPOINTS[1], coders[HOOKPOINTS[1]], [make_rule("Neon", range(20, 28), **settings)]),
    ]
    return Guard(make_config(points, fingerprint=fingerprint, branches=branches), coders)


def draw(pipe: Any, *, steps: int = 3, guidance: float = 5.0, prompt: str | list[str] = "a pistol", **more: Any) -> Any:
    """Pictures as a float tensor; the same call gives the same bits."""
    generator = torch.Generator().manual_seed(7)
    output = pipe(
        prompt, num_inference_steps=steps, guidance_scale=guidance, generator=generator, output_type="pt", **more
    )
    return output.images


def patch(target: Any, name: str, value: Callable[..., Any]) -> Callable[[], None]:
    """Put ``value`` in place of an instance's method; gives the function that takes it away again."""
    setattr(target, name, value)
    return lambda: delattr(target, name)
