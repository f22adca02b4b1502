"""What a guard tells about the images that it watched over."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from saeuron_guard.guard.images import ImageReport
from saeuron_guard.guard.tally import ConceptFindings


@dataclass(frozen=True, slots=True)
class GuardReport:
    """What fired, concept by concept, over ``calls`` denoiser calls; and in each of the last pipeline call's images."""

    calls: int
    concepts: tuple[ConceptFindings, ...]
    images: tuple[ImageReport, ...] = ()

    def concept(self, name: str) -> ConceptFindings:
        """The findings of one concept; KeyError for one that the guard has no rule for."""
        return {findings.concept: findings for findings in self.concepts}[name]

    def to_json(self) -> dict[str, Any]:
        """The report as plain values for a JSON file; heat maps are left out."""
        return {
            "calls": self.calls,
            "concepts": [asdict(findings) for findings in self.concepts],
            "images": [image.to_json() for image in self.images],
        }
