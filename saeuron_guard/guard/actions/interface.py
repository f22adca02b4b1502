"""What an action gets to see, and what it gives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from jaxtyping import Float32, Int64
from torch import Tensor

from saeuron_guard.shapes import Activations, Bias, FeatureValues, PlaceActivations, PlaceFeatures, PlaceFires


@dataclass(frozen=True, slots=True)
class Seen:
    """A hookpoint's activation at one denoiser call, and what some columns (features of rules) found in it.

    ``x``: the whole activation, as it came; ``grid``: (height, width) of its positions if they are a map's, else None.
    ``places``: the (row, position) pairs that were looked at closely, ``before`` the activation there in float32.
    ``latents``, ``fires``, ``target``: of each column at each place; ``target`` is multiplier times mean.
    ``strength``: of each column, above 0; ``decoder``: each column's row of ``W_dec``; ``b_dec``: the SAE's own mean.
    """

    x: Activations
    grid: tuple[int, int] | None
    places: Int64[Tensor, "places 2"]
    before: PlaceActivations
    latents: PlaceFeatures
    fires: PlaceFires
    target: PlaceFeatures
    strength: FeatureValues
    decoder: Float32[Tensor, "features d_in"]
    b_dec: Bias


Action = Callable[[Seen], PlaceActivations]
"""Gives the change (places, d_in) in float32: 0 wherever none of the columns fires.

``scale`` sees the columns of all its rules at once, the others those of one rule at a time.
"""
