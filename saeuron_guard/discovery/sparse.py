"""Concept statistics without the cells in which nothing fired, and what is known about where they come from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

import numpy as np
import numpy.typing as npt

from saeuron_guard.discovery.concept_statistics import Array, ConceptStatistics, Counts, Moments, StatisticsSource
from saeuron_guard.discovery.labels import ConceptTable
from saeuron_guard.errors import CannotEvaluate

Unsigned = npt.NDArray[np.unsignedinteger[Any]]
StatisticsT_co = TypeVar("StatisticsT_co", bound=StatisticsSource, covariant=True)

MOST_POSITIONS: Final = 1 << 23
"""Of a concept at a timestep: up to here a single-precision share of them tells how many there were."""


@dataclass(frozen=True, slots=True)
class Collected(Generic[StatisticsT_co]):
    """Statistics of the latents at one hookpoint, with everything needed to gather them again.

    ``provenance``: JSON values only; its ``hookpoint`` is a dotted module path.
    """

    statistics: StatisticsT_co
    provenance: Mapping[str, Any]

    @property
    def hookpoint(self) -> str:
        """Where the latents are."""
        return str(self.provenance["hookpoint"])


@dataclass(frozen=True, slots=True)
class SparseStatistics:
    """The cells (concept, timestep, latent) in which the latent fired at least once; in all others, everything is 0.

    Cells lie row by row, a row for each (concept, timestep), concepts outermost: those of row r are
    ``indptr[r]:indptr[r + 1]`` (int64, C * T + 1), with rising ``index``.
    ``index``, ``mean``, ``second`` (mean square) and ``fired`` (positions with a latent above 0) have one entry a cell.
    ``timesteps`` descending (T); ``count`` (C, T) positions.
    """

    table: ConceptTable
    timesteps: tuple[int, ...]
    num_latents: int
    count: Counts
    indptr: Counts
    index: Unsigned
    mean: Array
    second: Array
    fired: Unsigned

    @property
    def share(self) -> float:
        """Which share of all cells is here."""
        return len(self.index) / (self.count.size * self.num_latents)

    def at(self, place: int) -> Moments:
        """The moments of all concepts at the timestep in this place, each (C, num_latents), the zeros filled in."""
        concepts = len(self.count)
        mean, second, rate = (np.zeros((concepts, self.num_latents), np.float32) for _ in range(3))
        for concept in range(concepts):
            row = concept * len(self.timesteps) + place
            cells = slice(int(self.indptr[row]), int(self.indptr[row + 1]))
            at = self.index[cells]
            mean[concept, at] = self.mean[cells]
            second[concept, at] = self.second[cells]
            # The same division, in the same precision, as that which made the dense rate.
            rate[concept, at] = self.fired[cells].astype(np.float32) / np.float32(self.count[concept, place])
        return Moments(mean, second, rate)


def narrow(largest: int) -> type[np.uint16 | np.uint32]:
    """The narrower type of whole numbers that holds 0 to ``largest``."""
    return np.uint16 if largest <= np.iinfo(np.uint16).max else np.uint32


def sparse_of(statistics: ConceptStatistics) -> SparseStatistics:
    """The same statistics without their zeros; nothing is lost, ``dense_of`` gives every bit back.

    Raises CannotEvaluate for statistics that are not of latents (0 or above, and 0 where nothing fired), and for more
    than MOST_POSITIONS positions of a concept at a timestep.
    """
    if statistics.count.max() > MOST_POSITIONS:
        raise CannotEvaluate(
            f"{statistics.count.max()} positions of a concept at one timestep; expected at most {MOST_POSITIONS}, "
            "since firing rates beyond are not exact; give fewer prompts or seeds"
        )
    concepts, _, latents = statistics.mean.shape
    parts = [_cells_of(statistics, concept) for concept in range(concepts)]
    sizes, index, mean, second, fired = (np.concatenate(column) for column in zip(*parts, strict=True))
    return SparseStatistics(
        table=statistics.table,
        timesteps=statistics.timesteps,
        num_latents=latents,
        count=statistics.count.astype(np.int64),
        indptr=np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes, dtype=np.int64)]),
        index=index.astype(narrow(latents - 1)),
        mean=mean,
        second=second,
        fired=fired.astype(narrow(int(statistics.count.max()))),
    )


def _cells_of(statistics: ConceptStatistics, concept: int) -> tuple[npt.NDArray[Any], ...]:
    """Of one concept: cells of each row, then index, mean, second and fired of each cell."""
    mean, second, rate = (figure[concept] for figure in (statistics.mean, statistics.second, statistics.rate))
    count = statistics.count[concept][:, None]
    fired = np.rint(rate * count.astype(np.float64)).astype(np.uint32)
    there = fired > 0
    sound = (fired.astype(np.float32) / count.astype(np.float32) == rate).all() and (fired <= count).all()
    silent = not (mean[~there].any() or second[~there].any())
    if not (sound and silent and (mean >= 0).all()):
        raise CannotEvaluate(
            f"the statistics of {statistics.table.names[concept]!r} are not of latents: expected means of 0 or more, "
            "0 where nothing fired, and rates that are shares of the positions; collect them from an autoencoder"
        )
    return there.sum(1), np.nonzero(there)[1], mean[there], second[there], fired[there]


def dense_of(statistics: SparseStatistics) -> ConceptStatistics:
    """The same statistics with every cell: 12 bytes x concepts x timesteps x latents."""
    steps = [statistics.at(place) for place in range(len(statistics.timesteps))]
    mean, second, rate = (np.stack([getattr(step, name) for step in steps], 1) for name in ("mean", "second", "rate"))
    return ConceptStatistics(statistics.table, statistics.timesteps, statistics.count, mean, second, rate)
