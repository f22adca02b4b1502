"""``reflect``: the activation is mirrored at the plane that the concept's direction stands on; its norm stays."""

from __future__ import annotations

import torch

from saeuron_guard.guard.actions.interface import Seen
from saeuron_guard.shapes import PlaceActivations


def reflect(seen: Seen) -> PlaceActivations:
    """``y - x`` with ``y = x - 2 strength max(<x, u>, 0) u``, scaled to the norm of ``x``.

    ``u``: the unit vector along ``sum_i z_i W_dec[i]`` of the features that fire, what the SAE says the concept adds.
    With strength 1 it is the reflection of CASteer (arXiv 2503.09630), which keeps the norm by itself; deviates: there
    the direction is a difference of means, the same everywhere.
    """
    direction = torch.where(seen.fires, seen.latents, 0.0) @ seen.decoder
    length = direction.norm(dim=1, keepdim=True)
    unit = torch.where(length > 0, direction / length.clamp_min(torch.finfo(torch.float32).tiny), 0.0)
    along = (seen.before * unit).sum(dim=1, keepdim=True).clamp_min(0.0)
    mirrored = seen.before - 2 * seen.strength.max() * along * unit
    norm = seen.before.norm(dim=1, keepdim=True)
    scaled = mirrored * (norm / mirrored.norm(dim=1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny))
    return torch.where(along > 0, scaled - seen.before, 0.0)
