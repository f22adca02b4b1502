"""The intervention written plainly: dense, in double precision, one position and one feature after another."""

from __future__ import annotations

import numpy as np

from saeuron_guard.compiler.config import HookpointConfig
from saeuron_guard.sae.sparse_coder import SparseCoder


def reference(
    x: np.ndarray, timesteps: list[float], point: HookpointConfig, coder: SparseCoder
) -> tuple[np.ndarray, np.ndarray]:
    """The edited activation (batch, pos, d_in), and which positions (batch, pos) are clear cases.

    A case is clear when no selected feature's pre-activation is within rounding of its threshold or of the k-th
    largest, where single precision may decide otherwise.
    """
    weights = {name: tensor.double().numpy() for name, tensor in coder.state_dict().items()}
    output, clear = x.astype(np.float64), np.ones(x.shape[:2], dtype=bool)
    for row in range(x.shape[0]):
        gaps = [abs(calibrated - timesteps[row]) for calibrated in point.timesteps]
        time = gaps.index(min(gaps))
        for position in range(x.shape[1]):
            pre = weights["encoder.weight"] @ (x[row, position] - weights["b_dec"]) + weights["encoder.bias"]
            ordered = np.sort(np.maximum(pre, 0))[::-1]
            kth = ordered[point.k - 1]
            following = ordered[point.k] if point.k < len(ordered) else 0.0
            z = np.where(np.maximum(pre, 0) >= kth, np.maximum(pre, 0), 0)
            changed = z.copy()
            for rule in point.rules:
                for edit in rule.features:
                    if not edit.active[time]:
                        continue
                    value, threshold = z[edit.index], edit.threshold[time]
                    near = min(abs(pre[edit.index] - edge) for edge in (threshold, 0.0))
                    if near < 1e-3 or (pre[edit.index] > 0 and kth - following < 1e-3):
                        clear[row, position] = False
                    if value > 0 and value > threshold:
                        target = rule.multiplier * edit.mean[time] * value
                        changed[edit.index] = value + rule.strength * (target - value)
            output[row, position] += (changed - z) @ weights["W_dec"]
    return output, clear
