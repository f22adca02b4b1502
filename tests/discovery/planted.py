"""Activations with a known sparse dictionary and known concepts, for tests of the trainer."""

from __future__ import annotations

import torch
from torch import Tensor

from saeuron_guard.discovery.labels import ConceptTable

D_IN, TRUE_LATENTS, ACTIVE, POSITIONS = 24, 32, 3, 8
OFFSET = 1.5
TABLE = ConceptTable(("object", "style"), (("bomb", "cat", "dog"), ("Neon", "Pixel")))


def dictionary() -> Tensor:
    """The planted directions, (TRUE_LATENTS, D_IN), unit rows; the first five belong to the concepts of TABLE."""
    rows = torch.randn(TRUE_LATENTS, D_IN, generator=torch.Generator().manual_seed(11))
    return rows / rows.norm(dim=1, keepdim=True)


def maps(count: int, generator: torch.Generator, *, scale: float = 1.0) -> tuple[Tensor, Tensor]:
    """Activations (count, POSITIONS, D_IN) and codes (count, 2).

    At each position ACTIVE concept-free directions fire; at half of an image's positions those of its object and
    its style do, too.
    """
    free = TRUE_LATENTS - len(TABLE.names)
    chosen = torch.rand(count, POSITIONS, free, generator=generator).topk(ACTIVE).indices + len(TABLE.names)
    strength = torch.zeros(count, POSITIONS, TRUE_LATENTS)
    strength.scatter_(-1, chosen, 1 + torch.rand(count, POSITIONS, ACTIVE, generator=generator))
    objects = torch.randint(0, 3, (count,), generator=generator)
    styles = torch.randint(3, 5, (count,), generator=generator)
    codes = torch.stack([objects, styles], 1)
    for column in range(2):
        shown = (torch.rand(count, POSITIONS, generator=generator) < 0.5) * 1.5
        strength[torch.arange(count), :, codes[:, column]] = shown
    return scale * (strength @ dictionary() + OFFSET), codes
