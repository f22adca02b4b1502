"""How well a finished autoencoder does on activations that it never saw."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from saeuron_guard.discovery.stream import StepActivations
from saeuron_guard.errors import CannotEvaluate
from saeuron_guard.sae.sparse_coder import SparseCoder


@dataclass(frozen=True, slots=True)
class HeldOutFigures:
    """How well an autoencoder explains ``positions`` that it never saw.

    ``fvu``: fraction of variance unexplained; ``l0``: latents above 0 a position; ``dead_share``: share of the latents
    that fired on none of them.
    """

    fvu: float
    l0: float
    dead_share: float
    positions: int


class _Tally:
    """Sums over held-out positions of one autoencoder; float64, for variances are differences of large sums."""

    def __init__(self, coder: SparseCoder) -> None:
        self._coder = coder
        self._total = torch.zeros(coder.config.d_in, dtype=torch.float64)
        self._square = 0.0
        self._error = 0.0
        self._fired = torch.zeros(coder.config.num_latents, dtype=torch.int64)
        self.positions = 0

    @torch.no_grad()
    def add(self, activations: Tensor) -> None:
        """Count raw ``activations`` (rows, pos, d_in)."""
        latents = self._coder.encode(activations)
        error = activations - self._coder.decode(latents)
        self._total += activations.double().sum((0, 1))
        self._square += float(activations.double().square().sum())
        self._error += float(error.double().square().sum())
        self._fired += (latents > 0).sum((0, 1))
        self.positions += activations.shape[0] * activations.shape[1]

    def figures(self) -> HeldOutFigures:
        variance = self._square - float(self._total.square().sum()) / self.positions
        return HeldOutFigures(
            fvu=self._error / max(variance, 1e-12),
            l0=float(self._fired.sum()) / self.positions,
            dead_share=float((self._fired == 0).double().mean()),
            positions=self.positions,
        )


def evaluate(
    steps: Iterable[StepActivations], coders: Mapping[str, SparseCoder], most_positions: int
) -> dict[str, HeldOutFigures]:
    """Figures of each hookpoint's coder over ``steps``, as at inference (k latents at each position).

    Stops after ``most_positions``; raises CannotEvaluate when there was nothing to look at.
    """
    tallies = {hookpoint: _Tally(coder) for hookpoint, coder in coders.items()}
    for step in steps:
        for hookpoint, tally in tallies.items():
            tally.add(step.activations[hookpoint])
        if all(tally.positions >= most_positions for tally in tallies.values()):
            break
    if any(not tally.positions for tally in tallies.values()):
        raise CannotEvaluate("no held-out activations; give at least one held-out seed")
    return {hookpoint: tally.figures() for hookpoint, tally in tallies.items()}
