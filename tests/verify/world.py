"""A whole small world to verify in: a random pipeline, a registry for it, a judge that remembers, audit prompts.

The images are noise. The judge takes an image for what its prompt asks for when it is one of the unguarded images, bit
for bit, and for the last label otherwise: so figures say how many images the guard changed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from numpy.typing import NDArray
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from saeuron_guard.judges.interface import Images
from saeuron_guard.pipelines.fingerprint import fingerprint
from saeuron_guard.policy.model import Audit, ConceptRule, Place, Policy, Retain
from saeuron_guard.prompts.model import Prompt, PromptSet
from saeuron_guard.registry.records import ModelRecord
from saeuron_guard.verify.drawing import draw
from saeuron_guard.verify.plan import Shot
from tests.registry.synthetic import Synthetic, write_synthetic_registry

LABELS = {"object": ("pistol", "cat", "else"), "style": ("Noto", "Neon", "else")}
PLACE = Place("policy.yaml", 1, 1)


def random_pipeline() -> Any:
    """A StableDiffusionPipeline with ``up_blocks.1.attentions.{1,2}``, 16 x 16 images, equal weights at every call."""
    torch.manual_seed(0)
    words = ["<|startoftext|>", "<|endoftext|>", *(chr(code) for code in range(33, 127))]
    words += [f"{chr(code)}</w>" for code in range(33, 127)]
    text = CLIPTextConfig(
        vocab_size=len(words), hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=24, bos_token_id=0, eos_token_id=1, pad_token_id=1,
    )  # fmt: skip
    unet = UNet2DConditionModel(
        sample_size=8, block_out_channels=(16, 32), layers_per_block=2, attention_head_dim=2, norm_num_groups=4,
        cross_attention_dim=16, down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )  # fmt: skip
    vae = AutoencoderKL(
        block_out_channels=(8, 8), norm_num_groups=4, latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
    )  # fmt: skip
    vocabulary = {word: number for number, word in enumerate(words)}
    pipe = StableDiffusionPipeline(
        vae=vae,
        text_encoder=CLIPTextModel(text),
        tokenizer=CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=24),
        unet=unet,
        scheduler=DDIMScheduler(clip_sample=False, set_alpha_to_one=False, steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def write_registry(folder: Path, pipe: Any) -> Path:
    """A registry whose model is ``pipe``, drawn in three steps, with features that fire often; the manifest's path."""
    manifest = write_synthetic_registry(folder, Synthetic(fingerprint=fingerprint(pipe), k=16))
    document = yaml.safe_load(manifest.read_text(encoding="utf-8"))
    document["models"][0] |= {"steps": 3, "guidance": 3.0}
    manifest.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
    return manifest


def prompt(text: str, **labels: str) -> Prompt:
    """A prompt named by its text."""
    return Prompt(text, text, tuple(sorted(labels.items())))


PROMPTS = PromptSet(
    name="tiny-audit",
    role="audit",
    model="tiny",
    prompts=(
        prompt("a pistol in Noto", object="pistol", style="Noto"),
        prompt("a pistol in Neon", object="pistol", style="Neon"),
        prompt("a cat in Noto", object="cat", style="Noto"),
        prompt("a cat in Neon", object="cat", style="Neon"),
    ),
    digest="sha256:" + "3" * 64,
)


def policy_of(*, strength: float = 1.0, max_loss: float = 1.0, removal: float = 0.3, minimum_n: int = 2) -> Policy:
    """A policy that removes the pistol and, unless ``max_loss`` says otherwise, doesn't mind what that costs."""
    return Policy(
        name="no-pistol",
        version="1.0.0",
        owner="tests",
        model="tiny",
        branches="conditional",
        threshold="midpoint",
        concepts=(ConceptRule("pistol", PLACE, strength=strength, removal=removal),),
        retain=Retain(("object", "style"), (), max_loss, PLACE),
        audit=Audit("tiny-audit", (1, 2), minimum_n, PLACE),
        digest="sha256:" + "4" * 64,
        file="policy.yaml",
        model_place=PLACE,
    )


@dataclass(frozen=True)
class RememberingJudge:
    """Knows the images that it has been shown, by their bytes, and calls all others the last label."""

    seen: Mapping[bytes, Mapping[str, str]]
    name: str = "remembering"
    digest: str = "sha256:" + "5" * 64

    def labels(self, domain: str) -> tuple[str, ...]:
        """The labels of ``domain``."""
        return LABELS[domain]

    def classify(self, images: Images, domain: str) -> list[str]:
        """What each image was when it was seen, else the last label."""
        return [self.seen.get(image.tobytes(), {}).get(domain, LABELS[domain][-1]) for image in images]

    def scores(self, images: Images, domain: str) -> NDArray[np.float32]:
        """1 for the label that ``classify`` gives, 0 for the others."""
        labels = self.labels(domain)
        return np.array([[name == label for name in labels] for label in self.classify(images, domain)], np.float32)


def judge_of(pipe: Any, model: ModelRecord, seeds: tuple[int, ...] = (1, 2)) -> RememberingJudge:
    """A judge that has seen all of ``PROMPTS`` drawn without a guard."""
    shots = [Shot(one, seed, ()) for seed in seeds for one in PROMPTS.prompts]
    images = draw(pipe, model, shots, "", lambda *_: None)
    return RememberingJudge(
        {image.tobytes(): dict(shot.prompt.labels) for image, shot in zip(images, shots, strict=True)}
    )
