"""The interventions written plainly: dense, in double precision, one position and one feature after another."""

from __future__ import annotations

import numpy as np

from saeuron_guard.compiler.config import FeatureEdit, HookpointConfig, Rule
from saeuron_guard.sae.sparse_coder import SparseCoder

Weights = dict[str, np.ndarray]
Fired = dict[int, dict[int, float]]
"""position -> feature -> latent, where a rule's features fire in one image."""


def reference(
    x: np.ndarray, timesteps: list[float], point: HookpointConfig, coder: SparseCoder
) -> tuple[np.ndarray, np.ndarray]:
    """The edited activation (batch, pos, d_in), and which positions (batch, pos) are clear cases.

    A case is clear when no selected feature's pre-activation is within rounding of its threshold or of the k-th
    largest, where single precision may decide otherwise.  Positions are tokens: near means near along them.
    """
    weights = {name: tensor.double().numpy() for name, tensor in coder.state_dict().items()}
    output, clear = x.astype(np.float64), np.ones(x.shape[:2], dtype=bool)
    for row in range(x.shape[0]):
        gaps = [abs(calibrated - timesteps[row]) for calibrated in point.timesteps]
        time = gaps.index(min(gaps))
        latents = [Latents(x[row, position], point.k, weights) for position in range(x.shape[1])]
        for rule in point.rules:
            fired: Fired = {}
            for position, found in enumerate(latents):
                here = {edit.index: found.z[edit.index] for edit in rule.features if found.fires(edit, time)}
                if here:
                    fired[position] = here
                clear[row, position] &= not any(found.doubtful(edit, time) for edit in rule.features)
            for position in fired if rule.applied else ():
                output[row, position] += change(rule, x[row].astype(np.float64), position, fired, time, weights)
    return output, clear


class Latents:
    """The latents at one position, zero outside of the top k."""

    def __init__(self, x: np.ndarray, k: int, weights: Weights) -> None:
        self.pre = weights["encoder.weight"] @ (x - weights["b_dec"]) + weights["encoder.bias"]
        positive = np.maximum(self.pre, 0)
        ordered = np.sort(positive)[::-1]
        self.z = np.where(positive >= ordered[k - 1], positive, 0)
        self.gap = ordered[k - 1] - (ordered[k] if k < len(ordered) else 0.0)

    def fires(self, edit: FeatureEdit, time: int) -> bool:
        """Whether the feature is edited here."""
        value = self.z[edit.index]
        return bool(edit.active[time] and value > 0 and value > edit.threshold[time])

    def doubtful(self, edit: FeatureEdit, time: int) -> bool:
        """Whether rounding may decide."""
        pre = self.pre[edit.index]
        near = min(abs(pre - edge) for edge in (edit.threshold[time], 0.0))
        return bool(edit.active[time] and (near < 1e-3 or (pre > 0 and self.gap < 1e-3)))


def change(rule: Rule, x: np.ndarray, position: int, fired: Fired, time: int, weights: Weights) -> np.ndarray:
    """What a rule adds at one position of one image."""
    here, features, decoder = x[position], fired[position], weights["W_dec"]
    if rule.action == "replace":
        clean = [other for other in range(len(x)) if other not in fired]
        nearest = min(clean, key=lambda other: (abs(other - position), other), default=None)
        return rule.strength * ((weights["b_dec"] if nearest is None else x[nearest]) - here)
    if rule.action == "reflect":
        added = sum(value * decoder[index] for index, value in features.items())
        unit = added / np.linalg.norm(added)
        moved = here - 2 * rule.strength * max(float(here @ unit), 0.0) * unit
        return moved * np.linalg.norm(here) / np.linalg.norm(moved) - here
    means = {edit.index: edit.mean[time] for edit in rule.features}
    return sum(
        rule.strength * (rule.multiplier * means[index] * value - value) * decoder[index]
        for index, value in features.items()
    )
