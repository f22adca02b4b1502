"""Statistics of latents per concept and timestep, as scoring reads them; numpy alone, whoever gathered them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from saeuron_guard.discovery.labels import ConceptTable

Array = npt.NDArray[np.float32]
Counts = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Moments:
    """Latents over groups of positions, each (..., num_latents): mean, mean square, share of positions above 0."""

    mean: Array
    second: Array
    rate: Array

    def of(self, groups: slice) -> Moments:
        """Those of some of the groups, along the first axis."""
        return Moments(self.mean[groups], self.second[groups], self.rate[groups])


class StatisticsSource(Protocol):
    """What scoring asks of statistics: one timestep at a time, so that they need not be in memory as a whole."""

    @property
    def table(self) -> ConceptTable:
        """The concepts, C of them."""

    @property
    def timesteps(self) -> tuple[int, ...]:
        """The scheduler's timesteps, descending, T of them."""

    @property
    def count(self) -> Counts:
        """Positions of each concept at each timestep, (C, T)."""

    def at(self, place: int) -> Moments:
        """The moments of all concepts at the timestep in this place, each (C, num_latents)."""


@dataclass(frozen=True, slots=True)
class ConceptStatistics:
    """Frozen statistics of one hookpoint's latents, every cell of them.

    ``timesteps`` descending (T); ``count`` (C, T) positions; ``mean``, ``second`` (mean square) and ``rate`` (share of
    positions with a latent above 0) are (C, T, num_latents) float32, C in the order of ``table.names``.
    """

    table: ConceptTable
    timesteps: tuple[int, ...]
    count: Counts
    mean: Array
    second: Array
    rate: Array

    def at(self, place: int) -> Moments:
        """The moments of all concepts at the timestep in this place, each (C, num_latents)."""
        return Moments(self.mean[:, place], self.second[:, place], self.rate[:, place])
