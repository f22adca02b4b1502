"""Tensor shapes that stand in signatures; tests check them at every call (jaxtyping with beartype).

One letter or word, one meaning, wherever it appears: ``batch`` rows of a batch, ``pos`` positions (h * w of a map, or
tokens), ``d_in`` channels at a hookpoint, ``latents`` the dictionary of an SAE, ``k`` how many of them may fire,
``features`` the selected ones, ``columns`` some of these, ``rows`` 1 or ``batch`` (a timestep for all rows, or one for
each), ``places`` (batch, pos) pairs picked out, ``times`` calibrated timesteps.
"""

from __future__ import annotations

from typing import TypeAlias

from jaxtyping import Bool, Float, Float32, Int64
from torch import Tensor

Activations: TypeAlias = Float[Tensor, "batch pos d_in"]
Latents: TypeAlias = Float32[Tensor, "batch pos latents"]
SelectedLatents: TypeAlias = Float32[Tensor, "batch pos features"]
FeatureIndices: TypeAlias = Int64[Tensor, "features"]

ColumnIndices: TypeAlias = Int64[Tensor, "columns"]

PlaceActivations: TypeAlias = Float[Tensor, "places d_in"]
PlaceFeatures: TypeAlias = Float32[Tensor, "places features"]
PlaceFires: TypeAlias = Bool[Tensor, "places features"]

PlaceNumbers: TypeAlias = Int64[Tensor, "places"]
PlaceMask: TypeAlias = Bool[Tensor, "places"]
PolicyNumbers: TypeAlias = Int64[Tensor, "_"]
RowFlags: TypeAlias = Bool[Tensor, "batch"]
Bias: TypeAlias = Float32[Tensor, "d_in"]

FeatureValues: TypeAlias = Float32[Tensor, "features"]
TimeTable: TypeAlias = Float32[Tensor, "times features"]
TimeMask: TypeAlias = Bool[Tensor, "times features"]
RowValues: TypeAlias = Float32[Tensor, "rows features"]
RowMask: TypeAlias = Bool[Tensor, "rows features"]

Timesteps: TypeAlias = Float[Tensor, "rows"]
CalibratedTimesteps: TypeAlias = Float32[Tensor, "times"]
TimestepDistances: TypeAlias = Float[Tensor, "rows times"]
LatentSlots: TypeAlias = Int64[Tensor, "latents"]
Membership: TypeAlias = Bool[Tensor, "features concepts"]
ConceptCounts: TypeAlias = Int64[Tensor, "concepts"]
ConceptPeaks: TypeAlias = Float32[Tensor, "concepts"]
