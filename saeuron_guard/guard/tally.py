"""What fired while images formed: counted in tensors along the way, read once when a report is asked for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Float32, Int64
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
class GuardReport:
    """What fired, concept by concept, over ``calls`` denoiser calls."""

    calls: int
    concepts: tuple[ConceptFindings, ...]

    def concept(self, name: str) -> ConceptFindings:
        """The findings of one concept; KeyError for one that the guard has no rule for."""
        return {findings.concept: findings for findings in self.concepts}[name]

    def to_json(self) -> dict[str, Any]:
        """The report as plain values for a JSON file."""
        return {"calls": self.calls, "concepts": [asdict(findings) for findings in self.concepts]}


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


@dataclass(frozen=True, slots=True)
class HookpointCounts:
    """Figures of one pass through one hookpoint; ``positions`` and ``peak`` are None when nothing came near."""

    concepts: tuple[str, ...]
    seen: int
    positions: ConceptCounts | None
    peak: ConceptPeaks | None


def count(firing: Firing | None, tables: HookpointTables, seen: int) -> HookpointCounts:
    """Summarise one pass over ``seen`` positions, by concept, without waiting for the device."""
    if firing is None:
        return HookpointCounts(tables.concepts, seen, None, None)
    fires = firing.fires
    by_concept = (fires[:, :, None] & tables.membership[None]).any(dim=1)
    floor = torch.finfo(torch.float32).tiny
    ratio = torch.where(fires, firing.latents.detach() / firing.threshold.clamp_min(floor), 0.0).amax(dim=0)
    peak = torch.where(tables.membership, ratio[:, None], 0.0).amax(dim=0)
    return HookpointCounts(tables.concepts, seen, by_concept.sum(dim=0), peak)


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

    def report(self, concepts: tuple[str, ...]) -> GuardReport:
        """Read the figures of ``concepts``, in this order; waits for the device."""
        return GuardReport(self.calls, tuple(self._findings(concept) for concept in concepts))

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
