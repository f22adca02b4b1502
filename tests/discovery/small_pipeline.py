"""A whole StableDiffusionPipeline of a few thousand random weights.

Its images are noise, so nothing here says how well a method works: the tests that use it are about which activations
are recorded, in what order and under which labels.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from saeuron_guard.prompts.model import Prompt

HOOKPOINTS = ("unet.up_blocks.1.attentions.0", "unet.up_blocks.1.attentions.1")
OBJECTS, STYLES = ("bomb", "cat", "dog"), ("Neon", "Pixel")
PROMPTS = tuple(
    Prompt(f"{thing}-{style}", f"{thing} in {style}", (("object", thing), ("style", style)))
    for thing in OBJECTS
    for style in STYLES
)


def small_pipeline() -> Any:
    """The pipeline; equal weights at every call."""
    torch.manual_seed(0)
    words = ["<|startoftext|>", "<|endoftext|>", *(chr(code) for code in range(33, 127))]
    words += [f"{chr(code)}</w>" for code in range(33, 127)]
    text = CLIPTextConfig(
        vocab_size=len(words), hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=24, bos_token_id=0, eos_token_id=1, pad_token_id=1,
    )  # fmt: skip
    unet = UNet2DConditionModel(
        sample_size=8, block_out_channels=(16, 32), layers_per_block=1, attention_head_dim=2, norm_num_groups=4,
        cross_attention_dim=16, down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )  # fmt: skip
    pipe = StableDiffusionPipeline(
        vae=AutoencoderKL(block_out_channels=(8,), norm_num_groups=4, latent_channels=4),
        text_encoder=CLIPTextModel(text),
        tokenizer=CLIPTokenizer(
            vocab={word: number for number, word in enumerate(words)}, merges=[], model_max_length=24
        ),
        unet=unet,
        scheduler=DDIMScheduler(clip_sample=False, set_alpha_to_one=False, steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe
