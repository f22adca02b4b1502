"""A registry as large as that of a real model, out of thin air: statistics, weights, manifest and a policy.

What is assumed of the statistics, with the figures measured on the two SAEs of EmojiCanvas (144 anchor prompts, five
timesteps, 320 to 1,472 positions a concept):

- A latent fires on k / L of all positions on average, k of L at each: that is what top-k means.
- Rates of firing differ between latents like a log-normal variable of spread 1.3 (measured 1.22 and 1.32 at a
  timestep; a log-normal's median follows from its mean and spread, and is the measured one within 6 %).
- Those of one latent differ between concepts by another factor, of spread 1.0 (measured 0.94 and 1.13).
- Positions fire in patches: as often as three independent ones would make it (with 3, the share of cells of an object
  in which nothing fired comes out as measured, 24 % to 38 %).
- A concept has 75 prompts of 256 positions, as SAeUron's statistics have.

At SAeUron's size, 50 timesteps, 20,480 latents, k 32, that makes about three quarters of all cells (concept, timestep,
latent) fire at least once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from saeuron_guard.discovery.labels import ConceptTable
from saeuron_guard.discovery.sparse import SparseStatistics, narrow

LATENT_SPREAD: Final = 1.3
CONCEPT_SPREAD: Final = 1.0
LEVEL_SPREAD: Final = 0.3
PATCH: Final = 3
PROMPTS: Final = 75
POSITIONS: Final = 256

OWN: Final = 640
"""One in so many latents speaks for a concept: 32 of 20,480, drawn anew for each, so that some speak for several."""
BOOST: Final = 40.0
"""How much more often they fire for it: enough to lead its scores."""
DRIFT: Final = 0.5
"""How much a latent's log rate changes from the first timestep to the last, as a spread."""

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Size:
    """How large the registry is; the defaults are SAeUron's SAEs on UnlearnCanvas, 50 styles and 20 objects."""

    concepts: int = 70
    timesteps: int = 50
    latents: int = 20_480
    d_in: int = 1280
    k: int = 32
    hookpoints: int = 2
    top: int = 48
    seed: int = 0

    @property
    def table(self) -> ConceptTable:
        """Two objects for every five styles, and at least one of each."""
        objects = max(1, self.concepts * 2 // 7)
        names = (("object", objects), ("style", max(1, self.concepts - objects)))
        groups = [tuple(f"{domain}-{number:03}" for number in range(1, count + 1)) for domain, count in names]
        return ConceptTable(tuple(domain for domain, _ in names), tuple(groups))

    @property
    def cells(self) -> int:
        """How many (concept, timestep, latent) there are, at all hookpoints together."""
        return len(self.table.names) * self.timesteps * self.latents * self.hookpoints

    @property
    def steps(self) -> tuple[int, ...]:
        """Timesteps as DDIM spaces them, descending."""
        spacing = max(1, 1000 // self.timesteps)
        return tuple(1 + spacing * place for place in reversed(range(self.timesteps)))


def synthetic_statistics(size: Size, hookpoint: int) -> SparseStatistics:
    """Statistics of the SAE at one of the hookpoints, numbered from 0; equal sizes give equal ones."""
    random = np.random.default_rng([size.seed, hookpoint])
    names = size.table.names
    concepts = list(_concepts(size, len(names), random))
    cells = [np.concatenate([part[column] for part in concepts]) for column in range(4)]
    sizes = np.concatenate([part[4] for part in concepts])
    count = np.full((len(names), size.timesteps), PROMPTS * POSITIONS, np.int64)
    return SparseStatistics(
        table=size.table,
        timesteps=size.steps,
        num_latents=size.latents,
        count=count,
        indptr=np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes, dtype=np.int64)]),
        index=cells[0],
        mean=cells[1],
        second=cells[2],
        fired=cells[3],
    )


def _concepts(size: Size, concepts: int, random: np.random.Generator) -> Iterator[tuple[Array, ...]]:
    """Index, mean, second and fired of the cells of each concept, and the number of cells of each of its timesteps."""
    positions = PROMPTS * POSITIONS
    usual = _log_normal(random, size.latents, LATENT_SPREAD)
    drift = DRIFT * random.standard_normal(size.latents, np.float32)
    time = np.linspace(-0.5, 0.5, size.timesteps, dtype=np.float32)[:, None]
    level = _log_normal(random, size.latents, LEVEL_SPREAD)
    for _ in range(concepts):
        rate = usual * _log_normal(random, size.latents, CONCEPT_SPREAD)
        rate[random.integers(0, size.latents, -(-size.latents // OWN))] *= BOOST
        # Boosts and chance must not make more fire than top-k lets.
        rate *= size.k / rate.sum()
        rates = np.minimum(rate * np.exp(drift * time), 1)
        fired = np.minimum(PATCH * random.poisson(rates * (positions / PATCH)), positions)
        there = fired > 0
        index, fired = np.nonzero(there)[1], fired[there]
        own_level = level[index] * _log_normal(random, len(index), 0.05)
        mean = (own_level * fired / positions).astype(np.float32)
        second = (mean * own_level * 1.05).astype(np.float32)
        yield index.astype(narrow(size.latents - 1)), mean, second, fired.astype(narrow(positions)), there.sum(1)


def _log_normal(random: np.random.Generator, count: int, spread: float) -> Array:
    """Factors of mean 1 whose logarithms have this standard deviation, float32."""
    return np.exp(spread * random.standard_normal(count, np.float32) - np.float32(spread**2 / 2))
