"""Why a rule of a compiled guard is as it is: which features, on whose word, and whether it edits."""

from __future__ import annotations

from saeuron_guard.compiler.merge import Claim
from saeuron_guard.compiler.points import RulePoint
from saeuron_guard.policy.model import ConceptRule
from saeuron_guard.wording import count_of


def why(point: RulePoint, claim: Claim) -> str:
    """One sentence for ``guard.json`` about what a rule does at a hookpoint; ``claim``: after merging."""
    text = f"{_which(point)} in run {point.run.name}; multiplier {_by(point.rule.multiplier)}"
    if point.rule.refuses:
        text = f"images are refused from {point.rule.share:.0%} of the positions on; {text}"
    elif not point.rule.edits:
        text = f"{_idle(point.rule)}: watched, not edited; {text}"
    return text if claim.chosen else f"{text}; stronger rules edit all of them, see merges"


def _which(point: RulePoint) -> str:
    """Which features a rule takes, and who says so."""
    selection, window = point.rule.selection, point.rule.window
    if point.indices:
        text = f"the {count_of(len(point.indices), 'feature')} that the policy names"
    else:
        best = "best feature" if point.features == 1 else f"{point.features} best features"
        text = f"the {best} of each timestep ({_by(selection.max_features)}) by method {point.run.method}"
    if selection.min_score is not None:
        text += f", with a score of at least {selection.min_score:g}"
    return text + (f", at timesteps {window.first} to {window.last}" if window else "")


def _by(stated: object) -> str:
    return "by calibration" if stated is None else "by the policy"


def _idle(rule: ConceptRule) -> str:
    """Why a rule edits nothing."""
    return "strength 0" if rule.mode == "enforce" else f"mode {rule.mode}"
