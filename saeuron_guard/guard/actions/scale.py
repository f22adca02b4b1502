"""``scale``: latents are multiplied, which takes their features out of the activation."""

from __future__ import annotations

import torch

from saeuron_guard.guard.actions.interface import Seen
from saeuron_guard.shapes import PlaceActivations


def scale(seen: Seen) -> PlaceActivations:
    """``strength (target z - z) W_dec[S]`` at the features that fire.

    Implements the intervention of SAeUron (arXiv 2501.18052, section 4.3) in delta form; deviates from its published
    code, which adds the SAE's error with the wrong sign: here the error is never touched.
    """
    change = torch.where(seen.fires, seen.target * seen.latents - seen.latents, 0.0)
    return (seen.strength * change) @ seen.decoder
