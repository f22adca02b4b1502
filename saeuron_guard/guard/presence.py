"""Which concepts are present in an image by the policy's own measure, and what follows from that. Without torch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from saeuron_guard.compiler.config import GuardConfig
from saeuron_guard.guard.roster import rules_of


@dataclass(frozen=True, slots=True)
class Present:
    """A concept that is present: its features fired at ``positions`` of the image, no less than its rule's share."""

    concept: str
    positions: float
    share: float
    refused: bool
    warned: bool

    def __str__(self) -> str:
        """As in messages."""
        return f"{self.concept} (fired at {self.positions:.0%} of the positions, present from {self.share:.0%} on)"


def present_in(config: GuardConfig, positions: Iterable[tuple[str, float]]) -> tuple[Present, ...]:
    """The concepts that are present, given at which share of the positions each concept fired.

    A concept whose features fire nowhere is not present, even from a share of 0 on.
    """
    rules = {rule.concept: rule for rule in rules_of(config)}
    return tuple(
        Present(concept, share, rule.share, rule.refuses, rule.mode == "warn")
        for concept, share in positions
        if (rule := rules.get(concept)) is not None and share > 0 and share >= rule.share
    )
