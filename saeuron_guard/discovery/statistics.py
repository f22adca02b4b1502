"""Means, second moments and firing rates of every latent, per concept and timestep, in one streamed pass.

Raw activations are summed as they come and never stored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from saeuron_guard.discovery.concept_statistics import Array, ConceptStatistics, Counts
from saeuron_guard.discovery.labels import UNLABELLED, ConceptTable
from saeuron_guard.discovery.stream import ActivationStream, Sampling, StepActivations
from saeuron_guard.errors import CannotEvaluate
from saeuron_guard.prompts.model import Prompt

Encoder = Callable[[Tensor], Tensor]
"""From activations (rows, pos, d_in) to latents (rows, pos, num_latents)."""


@dataclass(slots=True)
class _Sums:
    """Sums of one timestep: ``count`` (C,) positions; ``total``, ``square``, ``fired`` (C, num_latents)."""

    count: Counts
    total: Array
    square: Array
    fired: npt.NDArray[np.int32]

    @classmethod
    def zeros(cls, concepts: int, latents: int) -> _Sums:
        shape = (concepts, latents)
        return cls(
            np.zeros(concepts, np.int64),
            np.zeros(shape, np.float32),
            np.zeros(shape, np.float32),
            np.zeros(shape, np.int32),
        )


@dataclass(slots=True)
class StatisticsAccumulator:
    """Gathers; ``frozen`` gives the result. Two accumulators over parts of the data merge into one over all of it."""

    table: ConceptTable
    num_latents: int
    _sums: dict[int, _Sums] = field(default_factory=dict)

    def add(self, timestep: int, prompts: Sequence[Prompt], latents: Tensor) -> None:
        """Count ``latents`` (rows, pos, num_latents) of ``prompts``, one a row, for each concept asked for."""
        concepts = len(self.table.names)
        sums = self._sums.setdefault(timestep, _Sums.zeros(concepts, self.num_latents))
        membership = np.zeros((concepts, len(prompts)), dtype=np.float32)
        for row, prompt in enumerate(prompts):
            for code in self.table.codes(prompt):
                if code != UNLABELLED:
                    membership[code, row] = 1
        sums.count += (membership.sum(1) * latents.shape[1]).astype(np.int64)
        sums.total += membership @ latents.sum(1).numpy()
        sums.square += membership @ latents.square().sum(1).numpy()
        sums.fired += (membership @ (latents > 0).sum(1).numpy().astype(np.float32)).astype(np.int32)

    def merge(self, other: StatisticsAccumulator) -> None:
        """Take in what ``other`` has gathered; raises CannotEvaluate when it counted other concepts or latents."""
        if (other.table, other.num_latents) != (self.table, self.num_latents):
            raise CannotEvaluate("statistics of other concepts or another autoencoder cannot be merged")
        for timestep, theirs in other._sums.items():
            mine = self._sums.setdefault(timestep, _Sums.zeros(len(self.table.names), self.num_latents))
            mine.count += theirs.count
            mine.total += theirs.total
            mine.square += theirs.square
            mine.fired += theirs.fired

    def frozen(self) -> ConceptStatistics:
        """The statistics; raises CannotEvaluate when a concept has no sample at a timestep."""
        timesteps = tuple(sorted(self._sums, reverse=True))
        if not timesteps:
            raise CannotEvaluate("no activations were counted; give at least one prompt and one seed")
        sums = [self._sums[timestep] for timestep in timesteps]
        count = np.stack([each.count for each in sums], 1)
        if missing := [name for name, counts in zip(self.table.names, count, strict=True) if (counts == 0).any()]:
            raise CannotEvaluate(
                f"no samples at some timestep for {', '.join(missing)}; give prompts that ask for them"
            )
        # A stack a figure, not all four at once: the sums of a large autoencoder take hundreds of megabytes.
        size = count[:, :, None].astype(np.float32)
        mean = np.stack([each.total for each in sums], 1) / size
        second = np.stack([each.square for each in sums], 1) / size
        rate = np.stack([each.fired for each in sums], 1).astype(np.float32) / size
        return ConceptStatistics(self.table, timesteps, count, mean, second, rate)


def accumulate(
    steps: Iterable[StepActivations], encoders: Mapping[str, Encoder], table: ConceptTable
) -> dict[str, StatisticsAccumulator]:
    """Statistics of each hookpoint's latents over ``steps``."""
    found: dict[str, StatisticsAccumulator] = {}
    for step in steps:
        for hookpoint, encode in encoders.items():
            with torch.no_grad():
                latents = encode(step.activations[hookpoint]).float().cpu()
            if hookpoint not in found:
                found[hookpoint] = StatisticsAccumulator(table, latents.shape[-1])
            found[hookpoint].add(step.timestep, step.prompts, latents)
    return found


def collect_statistics(
    pipe: Any,
    encoders: Mapping[str, Encoder],
    prompts: Sequence[Prompt],
    seeds: Sequence[int],
    sampling: Sampling,
    log: Callable[[str], None] = print,
) -> dict[str, ConceptStatistics]:
    """Make an image of each prompt with each seed and gather every hookpoint's statistics in that one pass.

    ``encoders`` maps hookpoints to what turns activations into latents: ``SparseCoder.encode``, or the identity for
    the activations' own statistics.
    """
    table = ConceptTable.of(prompts)
    stream = ActivationStream(pipe, prompts, list(encoders), seeds=seeds, sampling=sampling)
    gathered = accumulate(_told(stream, log), encoders, table)
    return {hookpoint: gathered[hookpoint].frozen() for hookpoint in encoders}


def _told(stream: ActivationStream, log: Callable[[str], None]) -> Iterable[StepActivations]:
    """The steps of one pass, with a log line a batch of images."""
    done = 0
    last: tuple[Prompt, ...] = ()
    for step in stream.passes():
        if step.prompts is not last:
            log(f"statistics: image {done} of {stream.images}")
            done, last = done + len(step.prompts), step.prompts
        yield step
    log(f"statistics: image {done} of {stream.images}")
