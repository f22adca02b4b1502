"""Pipelines of other families, of real diffusers classes, small and untrained, without text encoders and VAE.

They are given embeddings in place of prompts, and give latents in place of pictures.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import diffusers
import torch
from torch import Tensor

from saeuron_guard.guard.guard import Guard
from tests.tiny import make_coder, make_config, make_point, make_rule

WIDTH = 16
STEPS = 3


def embeddings(*shape: int, seed: int = 0) -> Tensor:
    """Numbers in place of a text encoder's output."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def guard_at(hookpoint: str, d_in: int = WIDTH, timesteps: tuple[int, ...] = tuple(range(1000, -1, -20))) -> Guard:
    """A guard that acts at most positions of one hookpoint."""
    coder = make_coder(d_in=d_in, num_latents=4 * d_in)
    rule = make_rule("pistol", range(12), threshold=0.01, times=len(timesteps))
    return Guard(make_config([make_point(hookpoint, coder, [rule], timesteps=timesteps)]), {hookpoint: coder})


def draw_latents(pipe: Any, **inputs: Any) -> Tensor:
    """The latents that a pipeline's call ends with."""
    settings = {"num_inference_steps": STEPS, "output_type": "latent", "generator": torch.Generator().manual_seed(7)}
    return pipe(**{**settings, **inputs}).images


def quiet(pipe: Any) -> Any:
    """The same pipeline without a progress bar."""
    pipe.set_progress_bar_config(disable=True)
    return pipe


def sdxl() -> Any:
    """Conditioned on sizes and a pooled embedding, besides the text."""
    unet = diffusers.UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(WIDTH, 32),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 2),
        cross_attention_dim=32,
        attention_head_dim=4,
        norm_num_groups=8,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=8 * 6 + 32,
    )
    return quiet(
        diffusers.StableDiffusionXLPipeline(
            vae=None,
            text_encoder=None,
            text_encoder_2=None,
            tokenizer=None,
            tokenizer_2=None,
            unet=unet.eval(),
            scheduler=diffusers.EulerDiscreteScheduler(beta_schedule="scaled_linear", timestep_spacing="leading"),
            add_watermarker=False,
        )
    )


def draw_sdxl(pipe: Any) -> Tensor:
    """With guidance."""
    return draw_latents(
        pipe,
        prompt_embeds=embeddings(1, 5, 32),
        negative_prompt_embeds=embeddings(1, 5, 32, seed=1),
        pooled_prompt_embeds=embeddings(1, 32),
        negative_pooled_prompt_embeds=embeddings(1, 32, seed=1),
        height=64,
        width=64,
    )


def sd3() -> Any:
    """Two joint blocks, the last of which drops the text stream."""
    transformer = diffusers.SD3Transformer2DModel(
        sample_size=8,
        patch_size=1,
        in_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=32,
        caption_projection_dim=WIDTH,
        pooled_projection_dim=32,
        out_channels=4,
    )
    return quiet(
        diffusers.StableDiffusion3Pipeline(
            transformer=lively(transformer),
            scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
            vae=None,
            text_encoder=None,
            tokenizer=None,
            text_encoder_2=None,
            tokenizer_2=None,
            text_encoder_3=None,
            tokenizer_3=None,
        )
    )


def draw_sd3(pipe: Any) -> Tensor:
    """With guidance."""
    return draw_latents(
        pipe,
        prompt_embeds=embeddings(1, 5, 32),
        negative_prompt_embeds=embeddings(1, 5, 32, seed=1),
        pooled_prompt_embeds=embeddings(1, 32),
        negative_pooled_prompt_embeds=embeddings(1, 32, seed=1),
        height=64,
        width=64,
    )


def flux() -> Any:
    """Two double blocks and two single ones, with guidance as an input."""
    transformer = diffusers.FluxTransformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=32,
        guidance_embeds=True,
        axes_dims_rope=(2, 2, 4),
    )
    return quiet(
        diffusers.FluxPipeline(
            transformer=lively(transformer),
            scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
            vae=None,
            text_encoder=None,
            tokenizer=None,
            text_encoder_2=None,
            tokenizer_2=None,
        )
    )


def draw_flux(pipe: Any, steps: int = STEPS) -> Tensor:
    """Guidance is embedded: one row."""
    return draw_latents(
        pipe,
        prompt_embeds=embeddings(1, 5, 32),
        pooled_prompt_embeds=embeddings(1, 32),
        height=64,
        width=64,
        num_inference_steps=steps,
    )


def pixart() -> Any:
    """PixArt-Sigma; its pipeline does not say how many steps it makes."""
    transformer = diffusers.PixArtTransformer2DModel(
        sample_size=8,
        num_layers=2,
        patch_size=2,
        attention_head_dim=8,
        num_attention_heads=2,
        in_channels=4,
        out_channels=8,
        cross_attention_dim=WIDTH,
        caption_channels=32,
        use_additional_conditions=False,
    )
    return quiet(
        diffusers.PixArtSigmaPipeline(
            transformer=lively(transformer),
            scheduler=diffusers.DDIMScheduler(clip_sample=False),
            vae=None,
            text_encoder=None,
            tokenizer=None,
        )
    )


def draw_pixart(pipe: Any) -> Tensor:
    """With guidance."""
    return draw_latents(
        pipe,
        negative_prompt=None,
        prompt_embeds=embeddings(1, 5, 32),
        prompt_attention_mask=torch.ones(1, 5),
        negative_prompt_embeds=embeddings(1, 5, 32, seed=1),
        negative_prompt_attention_mask=torch.ones(1, 5),
        height=64,
        width=64,
        use_resolution_binning=False,
    )


def sana(*, sprint: bool = False) -> Any:
    """Linear attention; ``sprint``: with the embedded guidance of SANA-Sprint."""
    transformer = diffusers.SanaTransformer2DModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        num_attention_heads=2,
        attention_head_dim=8,
        num_cross_attention_heads=2,
        cross_attention_head_dim=8,
        cross_attention_dim=WIDTH,
        caption_channels=32,
        patch_size=1,
        guidance_embeds=sprint,
    )
    return quiet(
        diffusers.SanaPipeline(
            transformer=lively(transformer),
            scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
            vae=None,
            text_encoder=None,
            tokenizer=None,
        )
    )


def draw_sana(pipe: Any) -> Tensor:
    """With guidance."""
    return draw_latents(
        pipe,
        negative_prompt=None,
        prompt_embeds=embeddings(1, 5, 32),
        prompt_attention_mask=torch.ones(1, 5),
        negative_prompt_embeds=embeddings(1, 5, 32, seed=1),
        negative_prompt_attention_mask=torch.ones(1, 5),
        height=256,
        width=256,
        use_resolution_binning=False,
    )


def lively(model: Any) -> Any:
    """The model with all its weights drawn anew: at zero, as some begin, the output says nothing of the blocks."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return model.eval()


MAKERS: dict[str, Callable[[], Any]] = {"sdxl": sdxl, "sd3": sd3, "flux": flux, "pixart": pixart, "sana": sana}
