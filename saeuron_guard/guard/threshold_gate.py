"""The gate that compilers like: a feature fires where it is above its threshold, whoever is in the top k.

The exact gate asks the whole dictionary whether a feature is among the top k, for as many places as come near, and that
number has to be read back from the device.  This one computes with tensors alone: no host synchronisation, no Python
state that changes from step to step, so that one compiled graph serves all steps.  Where calibrated thresholds are well
above the k-th largest latent, the two agree nearly everywhere; ``benchmark gates`` measures it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from saeuron_guard.guard.intervention import Edit, Firing, act
from saeuron_guard.guard.tables import HookpointTables, RowTables
from saeuron_guard.shapes import Activations


def edit_by_threshold(
    x: Activations, tables: HookpointTables, rows: RowTables, grid: tuple[int, int] | None = None
) -> Edit:
    """As ``intervention.edit``, without asking for the top k; every position is a place.

    Positions at which no editing rule fires keep their bits.
    """
    with torch.autocast(x.device.type, enabled=False):
        batch, pos, d_in = x.shape
        firing = firing_by_threshold(x, tables, rows)
        target = _each(rows.target[:, None], batch, pos)
        after = act(x.reshape(batch * pos, d_in), firing, target, tables, x, grid)
        return Edit(after.reshape(x.shape), firing)


def firing_by_threshold(x: Activations, tables: HookpointTables, rows: RowTables) -> Firing:
    """Which selected features fire at which position: above their threshold and active at the timestep."""
    batch, pos, _ = x.shape
    latents = tables.coder.selected_pre_activations(x, tables.features).relu()
    threshold, active = rows.threshold[:, None], rows.active[:, None]
    fires = active & (latents > threshold) & (latents > 0)
    places = _every_place(batch, pos, x.device)
    return Firing(places, latents.flatten(0, 1), _each(threshold, batch, pos), fires.flatten(0, 1))


def _every_place(batch: int, pos: int, device: torch.device) -> Tensor:
    """All (row, position) pairs, row by row."""
    rows = torch.arange(batch, device=device).repeat_interleave(pos)
    return torch.stack([rows, torch.arange(pos, device=device).repeat(batch)], dim=1)


def _each(values: Tensor, batch: int, pos: int) -> Tensor:
    """Values (rows, 1, features) for every place, (batch * pos, features)."""
    return values.expand(batch, pos, -1).reshape(batch * pos, -1)
