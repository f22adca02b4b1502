"""The text encoder and denoiser of EmojiCanvas, and the pipeline that they form with the autoencoder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from saeuron_guard.pipelines.emoji_canvas.captions import (
    EMPTY_SHARE,
    END,
    MAX_TOKENS,
    START,
    UNSTYLED_SHARE,
    captions_for,
    write_tokenizer,
)
from saeuron_guard.pipelines.emoji_canvas.renders import Renders
from saeuron_guard.pipelines.emoji_canvas.text_tower import train_text_encoder
from saeuron_guard.pipelines.emoji_canvas.training import Log, Recipe, fit
from saeuron_guard.pipelines.emoji_canvas.world import STYLE_NAMES

RECIPE = Recipe(steps=11000, peak=8e-4, seed=23, warmup=200, average=0.999, save_every=500)
BATCH = 16
OFTEN = "Streamline"
"""Style of which every picture is drawn twice as often: its thin outlines are learned last."""


def load_tokenizer(folder: Path) -> CLIPTokenizer:
    """The tokenizer written to ``folder``."""
    return CLIPTokenizer(
        vocab=str(folder / "vocab.json"),
        merges=str(folder / "merges.txt"),
        bos_token=START,
        eos_token=END,
        pad_token=END,
        unk_token=END,
        model_max_length=MAX_TOKENS,
    )


def new_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """An untrained two-layer CLIP text encoder, 128 wide."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=128,
            intermediate_size=512,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=MAX_TOKENS,
            projection_dim=128,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def new_unet() -> UNet2DConditionModel:
    """An untrained denoiser with cross-attention at 8 x 8, so that SD 1.x's hookpoints exist under the same names."""
    return UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        layers_per_block=2,
        block_out_channels=(64, 128, 160),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=128,
        attention_head_dim=4,  # diffusers reads this as the number of heads
        norm_num_groups=16,
    )


def new_scheduler() -> DDIMScheduler:
    """SD 1.x's noise schedule with v-prediction."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


class TextAndDenoiser(nn.Module):
    """The two networks that are trained together."""

    def __init__(self, text_encoder: CLIPTextModel, unet: UNet2DConditionModel) -> None:
        super().__init__()
        self.text_encoder = text_encoder
        self.unet = unet


@dataclass(frozen=True, slots=True)
class CaptionTable:
    """Token ids of all captions: ``styled`` (n, templates, tokens), ``unstyled`` likewise, ``empty`` (tokens,)."""

    styled: Tensor
    unstyled: Tensor
    empty: Tensor

    @classmethod
    def build(cls, renders: Renders, tokenizer: CLIPTokenizer) -> CaptionTable:
        """Tokenize the captions of every picture of ``renders``."""
        seen: dict[tuple[int, int, int], tuple[Tensor, Tensor]] = {}
        rows = list(zip(renders.objects.tolist(), renders.styles.tolist(), renders.backgrounds.tolist(), strict=True))
        for row in rows:
            if row not in seen:
                styled, unstyled = captions_for(*row)
                seen[row] = (_tokens(tokenizer, styled), _tokens(tokenizer, unstyled))
        return cls(
            torch.stack([seen[row][0] for row in rows]),
            torch.stack([seen[row][1] for row in rows]),
            _tokens(tokenizer, [""])[0],
        )

    def draw(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        """Pick a caption for each picture of ``rows``; (n, tokens)."""
        count = len(rows)
        styled = self.styled[rows, torch.randint(self.styled.shape[1], (count,), generator=generator)]
        unstyled = self.unstyled[rows, torch.randint(self.unstyled.shape[1], (count,), generator=generator)]
        draw = torch.rand(count, generator=generator)[:, None]
        picked = torch.where(draw < EMPTY_SHARE + UNSTYLED_SHARE, unstyled, styled)
        return torch.where(draw < EMPTY_SHARE, self.empty, picked)


def train_denoiser(renders: Renders, latents: Tensor, folder: Path, log: Log) -> tuple[CLIPTokenizer, TextAndDenoiser]:
    """Train text encoder and denoiser on ``latents`` (n, 4, 16, 16), row i of which is picture i of ``renders``."""
    # kept once its last file is written: ties between merges fall differently in every process
    if not (folder / "tokenizer" / "merges.txt").exists():
        write_tokenizer(folder / "tokenizer")
    tokenizer = load_tokenizer(folder / "tokenizer")
    captions = CaptionTable.build(renders, tokenizer)
    torch.manual_seed(RECIPE.seed)
    text_encoder = new_text_encoder(tokenizer)
    train_text_encoder(text_encoder, tokenizer, folder, log)
    networks = TextAndDenoiser(text_encoder, new_unet())
    alphas = new_scheduler().alphas_cumprod
    often = torch.from_numpy(renders.styles == STYLE_NAMES.index(OFTEN)).nonzero()[:, 0]
    pool = torch.cat([torch.arange(len(latents)), often])

    def loss(generator: torch.Generator) -> Tensor:
        rows = pool[torch.randint(len(pool), (BATCH,), generator=generator)]
        clean = latents[rows]
        noise = torch.randn(clean.shape, generator=generator)
        # stratified: one timestep from each of BATCH equal slices, which lowers the gradient's variance
        slices = (torch.arange(BATCH) + torch.rand(BATCH, generator=generator)) / BATCH
        timesteps = (slices * len(alphas)).long()
        signal = alphas[timesteps].sqrt()[:, None, None, None]
        spread = (1 - alphas[timesteps]).sqrt()[:, None, None, None]
        tokens = captions.draw(rows, generator)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            hidden = networks.text_encoder(tokens).last_hidden_state
            predicted = networks.unet(signal * clean + spread * noise, timesteps, hidden).sample
        return F.mse_loss(predicted.float(), signal * noise - spread * clean)

    fit(networks, loss, RECIPE, folder / "denoiser.safetensors", log)
    networks.eval()
    return tokenizer, networks


def assemble(vae: AutoencoderKL, tokenizer: CLIPTokenizer, networks: TextAndDenoiser) -> StableDiffusionPipeline:
    """The stock pipeline made of the trained parts."""
    return StableDiffusionPipeline(
        vae=vae,
        text_encoder=networks.text_encoder,
        tokenizer=tokenizer,
        unet=networks.unet,
        scheduler=new_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def _tokens(tokenizer: CLIPTokenizer, captions: list[str]) -> Tensor:
    encoded = tokenizer(captions, padding="max_length", max_length=MAX_TOKENS, truncation=True, return_tensors="pt")
    ids: Tensor = encoded.input_ids
    return ids
