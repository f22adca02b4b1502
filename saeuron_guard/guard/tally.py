"""What fired while images formed: counted in tensors along the way, read once when a report is asked for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float32, Int64
from torch import Tensor

from saeuron_guard.guard.intervention import Firing
from saeuron_guard.guard.tables import HookpointTables
from saeuron_guard.shapes import ConceptCounts, ConceptPeaks


@dataclass(frozen=True, slots=True)
class ConceptFindings:
    """What the guard saw of one concept.

    ``steps``: denoiser calls in which a feature of it fired at some position of some image.
    ``positions``: share of the positions looked at (of all images, all steps, and those branches of classifier-free
    guidance that the guard edits) at which one fired.
    ``peak``: largest latent relative to its threshold, 0 when none fired.
    """

    concept: str
    fired: bool
    steps: int
    positions: float
    peak: float


@dataclass(frozen=True, slots=True)
class Figures:
    """Running figures of one concept, on the device of its hookpoint."""

    steps: Int64[Tensor, ""]
    positions: Int64[Tensor, ""]
    peak: Float32[Tensor, ""]

    def plus(self, other: Figures) -> Figures:
        """Both together, on this one's device."""
        device = self.steps.device
        return Figures(
            self.steps + other.steps.to(device),
            self.positions + other.positions.to(device),
            torch.maximum(self.peak, other.peak.to(device)),
        )


class Where(NamedTuple):
    """Of the (row, position) pairs that were looked at closely: whether each concept fires there, and its peak."""

    places: Int64[Tensor, "places 2"]
    fires: Bool[Tensor, "places concepts"]
    ratio: Float32[Tensor, "places concepts"]


@dataclass(frozen=True, slots=True)
class HookpointCounts:
    """Figures of one pass through one hookpoint; ``where``, ``positions`` and ``peak`` are None when nothing came near.

    ``rows`` and ``pos``: how many rows of the batch, and positions of each, were looked at; ``grid``: (height, width)
    of the positions if they are a map's.
    """

    concepts: tuple[str, ...]
    rows: int
    pos: int
    grid: tuple[int, int] | None
    where: Where | None
    positions: ConceptCounts | None
    peak: ConceptPeaks | None

    @property
    def seen(self) -> int:
        """How many positions were looked at, over all rows."""
        return self.rows * self.pos


def count(
    firing: Firing | None, tables: HookpointTables, shape: tuple[int, int], grid: tuple[int, int] | None
) -> HookpointCounts:
    """Summarise one pass over ``shape`` (rows, positions), by concept, without waiting for the device."""
    rows, pos = shape
    if firing is None:
        return HookpointCounts(tables.concepts, rows, pos, grid, None, None, None)
    fires = firing.fires
    by_concept = (fires[:, :, None] & tables.membership[None]).any(dim=1)
    floor = torch.finfo(torch.float32).tiny
    ratio = torch.where(fires, firing.latents.detach() / firing.threshold.clamp_min(floor), 0.0)
    by_place = torch.where(tables.membership[None], ratio[:, :, None], 0.0).amax(dim=1)
    where = Where(firing.places, by_concept, by_place)
    return HookpointCounts(tables.concepts, rows, pos, grid, where, by_concept.sum(dim=0), by_place.amax(dim=0))


class Tally:
    """Adds up denoiser calls; one belongs to one pipeline call, and is merged into the guard's when that ends."""

    def __init__(self) -> None:
        self.calls = 0
        self._seen: Counter[str] = Counter()
        self._figures: dict[str, Figures] = {}

    def add_call(self, passes: Mapping[str, HookpointCounts]) -> None:
        """Add one denoiser call, given what each hookpoint counted in it."""
        self.calls += 1
        call: dict[str, Figures] = {}
        for counts in passes.values():
            for column, concept in enumerate(counts.concepts):
                self._seen[concept] += counts.seen
                if counts.positions is not None and counts.peak is not None:
                    positions = counts.positions[column]
                    _add(call, concept, Figures(torch.zeros_like(positions), positions, counts.peak[column]))
        for concept, figures in call.items():
            # However many hookpoints a concept fired at, it was one step.
            step = (figures.positions > 0).to(torch.int64)
            _add(self._figures, concept, Figures(step, figures.positions, figures.peak))

    def merge(self, other: Tally) -> None:
        """Add all that ``other`` counted."""
        self.calls += other.calls
        self._seen += other._seen
        for concept, figures in other._figures.items():
            _add(self._figures, concept, figures)

    def findings(self, concepts: tuple[str, ...]) -> tuple[ConceptFindings, ...]:
        """Read the figures of ``concepts``, in this order; waits for the device."""
        return tuple(self._findings(concept) for concept in concepts)

    def _findings(self, concept: str) -> ConceptFindings:
        figures = self._figures.get(concept)
        if figures is None:
            return ConceptFindings(concept, fired=False, steps=0, positions=0.0, peak=0.0)
        positions = int(figures.positions)
        share = positions / self._seen[concept]
        return ConceptFindings(concept, positions > 0, int(figures.steps), share, float(figures.peak))


def _add(totals: dict[str, Figures], concept: str, figures: Figures) -> None:
    before = totals.get(concept)
    totals[concept] = figures if before is None else before.plus(figures)
