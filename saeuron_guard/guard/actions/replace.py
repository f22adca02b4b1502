"""``replace``: positions where the concept fires get the activation of positions where it does not."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float32, Int64
from torch import Tensor

from saeuron_guard.guard.actions.interface import Seen
from saeuron_guard.shapes import PlaceActivations, PlaceMask, PlaceNumbers

_AT_ONCE = 512
"""Places whose distances to all positions are held together: 8 MiB with 4096 positions."""


def replace(seen: Seen) -> PlaceActivations:
    """``strength (r - x)``; ``r``: the activation at the nearest position of the same image without the concept.

    After PER (arXiv 2606.31699), where patches with the concept get the embedding of patches without it; of equally
    near ones the first is taken, so that the same noise gives the same image.  Where the concept fires everywhere,
    ``r`` is ``b_dec``, the mean activation of the SAE's training.
    """
    fires = seen.fires.any(dim=1)
    rows, positions = seen.places[:, 0], seen.places[:, 1]
    dirty = torch.zeros(seen.x.shape[:2], dtype=torch.bool, device=seen.x.device)
    dirty[rows, positions] = fires
    replacement = torch.zeros_like(seen.before)
    for part in torch.split(torch.arange(len(rows), device=rows.device), _AT_ONCE):
        nearest, clean = _nearest(positions[part], dirty[rows[part]], seen.grid)
        found = seen.x[rows[part], nearest].float()
        replacement[part] = torch.where(clean[:, None], found, seen.b_dec)
    return torch.where(fires[:, None], seen.strength.max() * (replacement - seen.before), 0.0)


def _nearest(
    positions: PlaceNumbers, dirty: Bool[Tensor, "places pos"], grid: tuple[int, int] | None
) -> tuple[PlaceNumbers, PlaceMask]:
    """The nearest clean position of each place, and whether there is one; by the map's plane, or along the tokens."""
    every = torch.arange(dirty.shape[1], device=dirty.device)
    if grid is None:
        distance = _square(positions[:, None] - every)
    else:
        width = grid[1]
        distance = _square(positions[:, None] // width - every // width)
        distance = distance + _square(positions[:, None] % width - every % width)
    distance = torch.where(dirty, torch.inf, distance)
    least = distance.min(dim=1)
    return least.indices, least.values < torch.inf


def _square(difference: Int64[Tensor, "places pos"]) -> Float32[Tensor, "places pos"]:
    return difference.to(torch.float32).square()
