"""The formula: pure functions from an activation and the tables of a hookpoint to the edited activation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from saeuron_guard.guard.actions.interface import Action, Seen
from saeuron_guard.guard.actions.reflect import reflect
from saeuron_guard.guard.actions.replace import replace
from saeuron_guard.guard.actions.scale import scale
from saeuron_guard.guard.tables import HookpointTables, RowTables
from saeuron_guard.shapes import (
    Activations,
    PlaceActivations,
    PlaceFeatures,
    PlaceFires,
    SelectedLatents,
)

ACTIONS: Final[Mapping[str, Action]] = {"scale": scale, "reflect": reflect, "replace": replace}
"""What carries out each action that edits anything."""

_PLACES_AT_ONCE = 1024
"""Places that are encoded together; bounds what a full encode holds, 80 MiB with 20,480 latents."""

_MARGIN = 1e-4
"""By how much a pre-activation may miss its threshold and still be looked at closely.

A product with a few rows of the encoder and one with all of them round differently; the close look decides alone.
"""


class Firing(NamedTuple):
    """What fires where.

    ``places``: the (row, position) pairs that were looked at closely; for each of them and every feature the latent,
    its threshold, and whether it fires.
    """

    places: Int64[Tensor, "places 2"]
    latents: PlaceFeatures
    threshold: PlaceFeatures
    fires: PlaceFires


class Edit(NamedTuple):
    """The edited activation (the very tensor that came in when nothing fires), and what fired."""

    output: Activations
    firing: Firing | None


def edit(x: Activations, tables: HookpointTables, rows: RowTables, grid: tuple[int, int] | None = None) -> Edit:
    """``x`` with each rule's action carried out where the rule's concept fires; see ``guard.actions``.

    ``x`` (batch, pos, d_in) of any floating dtype; computed in float32, the result is rounded to ``x``'s dtype.
    ``rows`` has one row for the whole batch or one for each row of it; rows of the batch do not see each other.
    ``grid``: (height, width) where the positions are a map's.
    Positions at which no editing rule fires keep their bits.
    The one host synchronisation is the size of ``nonzero``.
    """
    with torch.autocast(x.device.type, enabled=False):
        firing = find_firing(x, tables, rows)
        if firing is None:
            return Edit(x, None)
        places = (firing.places[:, 0], firing.places[:, 1])
        target = rows.target.expand(x.shape[0], -1)[places[0]]
        return Edit(x.index_put(places, act(x[places], firing, target, tables, x, grid)), firing)


def act(
    before: PlaceActivations,
    firing: Firing,
    target: PlaceFeatures,
    tables: HookpointTables,
    x: Activations,
    grid: tuple[int, int] | None,
) -> PlaceActivations:
    """``before``, the activation of ``x`` at the places of ``firing``, after every rule's action.

    ``target``: ``multiplier * mean`` of every column at each place.
    Places at which no editing rule fires keep their bits.
    """
    plain = before.float()
    delta = torch.zeros_like(plain)
    for group in tables.groups:
        columns = group.indices
        seen = Seen(
            x=x,
            grid=grid,
            places=firing.places,
            before=plain,
            latents=firing.latents[:, columns],
            fires=firing.fires[:, columns],
            target=target[:, columns],
            strength=tables.strength[columns],
            decoder=tables.coder.W_dec[tables.features[columns]],
            b_dec=tables.coder.b_dec,
        )
        delta = delta + ACTIONS[group.action](seen)
    changes = (firing.fires & (tables.strength != 0)).any(dim=1, keepdim=True)
    # where(), not a sum with zeros: -0.0 + 0.0 is 0.0, another bit pattern.
    return torch.where(changes, (plain + delta).to(before.dtype), before)


def find_firing(x: Activations, tables: HookpointTables, rows: RowTables) -> Firing | None:
    """Which selected features fire where: above their threshold, among the top k, and active at the timestep.

    None when no pre-activation comes near its threshold, which a few rows of the encoder tell.
    Only the places where one does are encoded with the whole dictionary, to see who is among the top k.
    """
    selected = tables.coder.selected_pre_activations(x, tables.features)
    places = candidates(selected, rows).nonzero()
    if not places.shape[0]:
        return None
    latents = torch.cat(
        [exact_latents(x[part[:, 0], part[:, 1]], tables) for part in torch.split(places, _PLACES_AT_ONCE)]
    )
    threshold = rows.threshold.expand(x.shape[0], -1)[places[:, 0]]
    active = rows.active.expand(x.shape[0], -1)[places[:, 0]]
    return Firing(places, latents, threshold, active & (latents > threshold) & (latents > 0))


def candidates(selected: SelectedLatents, rows: RowTables) -> Bool[Tensor, "batch pos"]:
    """Places where some active feature's pre-activation is above its threshold and 0, or close to it."""
    needed = rows.threshold.clamp_min(0)
    needed = needed - _MARGIN * (1 + needed)
    return ((selected > needed[:, None]) & rows.active[:, None]).any(dim=-1)


def exact_latents(x: PlaceActivations, tables: HookpointTables) -> PlaceFeatures:
    """Latents of the selected features after TopK over the whole dictionary; 0 for those not among the top k."""
    top = tables.coder.top_latents(x[None])
    slots = tables.slots[top.indices[0]]
    # Latents that nobody selected share a slot of their own, the last one, which no column reads.
    gathered = x.new_zeros((x.shape[0], tables.unique + 1), dtype=torch.float32)
    return gathered.scatter(1, slots, top.values[0])[:, tables.column_slots]
