"""How good EmojiCanvas is: what both judges call its pictures, and how well its autoencoder restores renders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from saeuron_guard.pipelines.emoji_canvas.classifier import ResidualClassifier
from saeuron_guard.pipelines.emoji_canvas.clip import zero_shot_labels
from saeuron_guard.pipelines.emoji_canvas.world import HELD_OUT, OBJECT_NAMES, STYLE_NAMES, combinations
from saeuron_guard.pipelines.generation import Images, generate
from saeuron_guard.prompts.model import Prompt

STEPS = 25
GUIDANCE = 5.0
TEMPLATE = "An image of {object} in {style} style."


@dataclass(frozen=True, slots=True)
class Drawn:
    """Pictures of all (object, style) pairs at some seeds; ``held_out`` marks the pairs kept out of training."""

    pictures: Images
    objects: np.ndarray
    styles: np.ndarray
    held_out: np.ndarray


def draw_all(pipe: Any, seeds: Sequence[int], *, batch_size: int = 16, held_out: bool | None = None) -> Drawn:
    """Draw every (object, style) pair once a seed, 25 steps at guidance 5."""
    pairs = [(thing.name, style.name) for thing, style in combinations(held_out=held_out)]
    prompts = [
        Prompt(
            f"{thing}-{style}-all", TEMPLATE.format(object=thing, style=style), (("object", thing), ("style", style))
        )
        for thing, style in pairs
    ]
    pictures = [generate(pipe, prompts, seed, steps=STEPS, guidance=GUIDANCE, batch_size=batch_size) for seed in seeds]
    rows = pairs * len(seeds)
    return Drawn(
        np.concatenate(pictures),
        np.array([OBJECT_NAMES.index(thing) for thing, _ in rows]),
        np.array([STYLE_NAMES.index(style) for _, style in rows]),
        np.array([pair in HELD_OUT for pair in rows]),
    )


def figures(
    drawn: Drawn, classifiers: dict[str, ResidualClassifier], clip: torch.nn.Module
) -> dict[str, dict[str, float]]:
    """Shares of right labels by judge and domain, on trained and on held-out pairs, with the number of pictures."""
    wanted = {"object": drawn.objects, "style": drawn.styles}
    found: dict[str, dict[str, float]] = {"n": {}}
    for group, rows in (("trained pairs", ~drawn.held_out), ("held-out pairs", drawn.held_out)):
        found["n"][group] = int(rows.sum())
        if not rows.any():
            continue
        for domain, truth in wanted.items():
            by_classifier = classifiers[domain].probabilities(drawn.pictures[rows]).argmax(axis=1)
            by_clip = zero_shot_labels(clip, drawn.pictures[rows], domain)
            for judge, guess in (("classifier", by_classifier), ("clip", by_clip)):
                found.setdefault(f"{judge} {domain}", {})[group] = float((guess == truth[rows]).mean())
    return found
