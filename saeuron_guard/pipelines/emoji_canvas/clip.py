"""A tiny CLIP of open_clip's own model class: the judge of the release check.

No selection or calibration ever sees it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from saeuron_guard.pipelines.emoji_canvas.classifier import augment
from saeuron_guard.pipelines.emoji_canvas.renders import Renders
from saeuron_guard.pipelines.emoji_canvas.training import Log, Recipe, fit
from saeuron_guard.pipelines.emoji_canvas.vae import to_pixels
from saeuron_guard.pipelines.emoji_canvas.world import OBJECT_NAMES, STYLE_NAMES

BATCH = 96
RECIPE = Recipe(steps=2500, peak=1.5e-3, seed=41, weight_decay=0.05, average=0.995, betas=(0.9, 0.98))
CONTEXT = 24
MEAN = STD = (0.5, 0.5, 0.5)

CONFIG: dict[str, Any] = {
    "embed_dim": 128,
    "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 16},
    "text_cfg": {"context_length": CONTEXT, "vocab_size": 49408, "width": 64, "heads": 4, "layers": 2},
}
PREPROCESS: dict[str, Any] = {
    "mean": MEAN, "std": STD, "interpolation": "bicubic", "resize_mode": "squash", "size": [64, 64], "mode": "RGB",
}  # fmt: skip

OBJECT_CAPTIONS = (
    "An image of {object}.",
    "a picture of a {object}",
    "{object}",
    "a {object}",
    "an icon of a {object}",
)
STYLE_CAPTIONS = (
    "An image in {style} style.",
    "{style} style",
    "a {style} picture",
    "a picture drawn in {style} style",
)
PAIR_CAPTIONS = (
    "An image of {object} in {style} style.",
    "{object}, {style} style",
    "a {style} {object}",
    "A picture of a {object} in the style of {style}.",
)


def train_clip(renders: Renders, folder: Path, log: Log) -> torch.nn.Module:
    """Train image and text towers together.

    Contrastive, with every caption that fits an image as its positive: objects against objects,
    styles against styles, and whole captions against whole captions, each with a caption drawn anew.
    """
    from open_clip import tokenize
    from open_clip.model import CLIP

    torch.manual_seed(RECIPE.seed)
    model = CLIP(**CONFIG)
    objects, styles = torch.from_numpy(renders.objects), torch.from_numpy(renders.styles)
    pairs = [(o, s) for o in range(len(OBJECT_NAMES)) for s in range(len(STYLE_NAMES))]
    sentences = {
        "object": [[c.format(object=o) for o in OBJECT_NAMES] for c in OBJECT_CAPTIONS],
        "style": [[c.format(style=s) for s in STYLE_NAMES] for c in STYLE_CAPTIONS],
        "pair": [[c.format(object=OBJECT_NAMES[o], style=STYLE_NAMES[s]) for o, s in pairs] for c in PAIR_CAPTIONS],
    }
    tokens = {kind: torch.stack([tokenize(row, CONTEXT) for row in rows]) for kind, rows in sentences.items()}
    targets = {"object": objects, "style": styles, "pair": objects * len(STYLE_NAMES) + styles}

    def loss(generator: torch.Generator) -> Tensor:
        rows = torch.randint(len(objects), (BATCH,), generator=generator)
        pixels = augment(to_pixels(renders.pictures[rows.numpy()]), generator)
        total = torch.zeros(())
        with torch.autocast("cpu", dtype=torch.bfloat16):
            seen = model.encode_image(pixels, normalize=True).float()
        for kind in ("object", "style", "pair"):
            which = int(torch.randint(len(tokens[kind]), (1,), generator=generator))
            said = model.encode_text(tokens[kind][which], normalize=True).float()
            logits = model.logit_scale.exp().clamp(max=100) * seen @ said.T
            total = total + F.cross_entropy(logits, targets[kind][rows], label_smoothing=0.02)
        return total

    fit(model, loss, RECIPE, folder / "clip.safetensors", log)
    return model.eval()


def save_clip(model: torch.nn.Module, folder: Path) -> None:
    """Write ``open_clip_config.json`` and ``open_clip_model.safetensors`` (float16), for open_clip's ``local-dir:``."""
    folder.mkdir(parents=True, exist_ok=True)
    templates = {"object": list(OBJECT_CAPTIONS), "style": list(STYLE_CAPTIONS)}
    config = {"model_cfg": CONFIG, "preprocess_cfg": PREPROCESS, "zero_shot_templates": templates}
    (folder / "open_clip_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    weights = {
        name: value.half().contiguous() if value.is_floating_point() else value
        for name, value in model.state_dict().items()
    }
    save_file(weights, folder / "open_clip_model.safetensors")


@torch.no_grad()
def zero_shot_labels(model: Any, pictures: np.ndarray, domain: str) -> np.ndarray:
    """The number of the nearest caption of ``domain``, for each of ``pictures`` (n, 64, 64, 3)."""
    from open_clip import tokenize

    names, captions = (OBJECT_NAMES, OBJECT_CAPTIONS) if domain == "object" else (STYLE_NAMES, STYLE_CAPTIONS)
    said = sum(
        model.encode_text(tokenize([c.format(**{domain: n}) for n in names], CONTEXT), normalize=True) for c in captions
    )
    guesses = [
        (model.encode_image(to_pixels(pictures[i : i + 128]), normalize=True) @ said.T).argmax(dim=-1).numpy()
        for i in range(0, len(pictures), 128)
    ]
    return np.concatenate(guesses)


def zero_shot_accuracy(model: Any, renders: Renders, domain: str) -> float:
    """Share of ``renders`` whose nearest caption of ``domain`` is the right one."""
    wanted = renders.objects if domain == "object" else renders.styles
    return float((zero_shot_labels(model, renders.pictures, domain) == wanted).mean())
