"""Gives the text encoder its words before the denoiser starts to learn.

Trained together from nothing, the denoiser uses the styles, which decide most of its loss, and hardly looks at the
objects for thousands of steps: exchanging the object moved its prediction by 1 %, exchanging the style by 200 %.
A text encoder that already says object, style and background at every position after the sentence ends that.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPTextModel, CLIPTokenizer

from saeuron_guard.pipelines.emoji_canvas.captions import MAX_TOKENS, captions_for
from saeuron_guard.pipelines.emoji_canvas.training import Log, Recipe, fit
from saeuron_guard.pipelines.emoji_canvas.world import BACKGROUNDS, OBJECT_NAMES, STYLE_NAMES

RECIPE = Recipe(steps=500, peak=1e-3, seed=17, warmup=50, average=0.98, weight_decay=0.01)
BATCH = 96


class _Reader(nn.Module):
    """The text encoder with a linear reading of each label on top, thrown away after training."""

    def __init__(self, text_encoder: CLIPTextModel, sizes: tuple[int, ...]) -> None:
        super().__init__()
        self.text_encoder = text_encoder
        self.heads = nn.ModuleList([nn.Linear(text_encoder.config.hidden_size, size) for size in sizes])


def train_text_encoder(text_encoder: CLIPTextModel, tokenizer: CLIPTokenizer, folder: Path, log: Log) -> None:
    """Teach ``text_encoder``, in place, what each caption names: object, style or none, background or none."""
    captions, labels = _labelled_captions()
    encoded = tokenizer(captions, padding="max_length", max_length=MAX_TOKENS, truncation=True, return_tensors="pt")
    tokens: Tensor = encoded.input_ids
    targets = torch.tensor(labels)
    after = (tokens == tokenizer.eos_token_id).float()
    torch.manual_seed(RECIPE.seed)
    reader = _Reader(text_encoder, (len(OBJECT_NAMES), len(STYLE_NAMES) + 1, len(BACKGROUNDS) + 1))

    def loss(generator: torch.Generator) -> Tensor:
        rows = torch.randint(len(tokens), (BATCH,), generator=generator)
        hidden = reader.text_encoder(tokens[rows]).last_hidden_state
        weight = after[rows] / after[rows].sum()
        total = torch.zeros(())
        for column, head in enumerate(reader.heads):
            logits = head(hidden).transpose(1, 2)
            wanted = targets[rows, column, None].expand(-1, MAX_TOKENS)
            total = total + (F.cross_entropy(logits, wanted, reduction="none") * weight).sum()
        return total

    fit(reader, loss, RECIPE, folder / "text-encoder.safetensors", log)


def _labelled_captions() -> tuple[list[str], list[tuple[int, int, int]]]:
    """Every caption once, with its object, style (0 for none) and background (0 for none)."""
    found: dict[str, tuple[int, int, int]] = {}
    for thing in range(len(OBJECT_NAMES)):
        for style in range(len(STYLE_NAMES)):
            for background in range(-1, len(BACKGROUNDS)):
                styled, unstyled = captions_for(thing, style, background)
                found |= dict.fromkeys(styled, (thing, style + 1, background + 1))
                found |= dict.fromkeys(unstyled, (thing, 0, background + 1))
    return list(found), list(found.values())
