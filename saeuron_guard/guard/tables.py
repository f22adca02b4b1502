"""What a hookpoint's rules say, as tensors: one column a feature, one row a calibrated timestep."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from saeuron_guard.compiler.config import FeatureEdit, HookpointConfig, Rule
from saeuron_guard.errors import ArtefactError, GuardNotEffective
from saeuron_guard.names import ACTIONS
from saeuron_guard.sae.sparse_coder import SparseCoder
from saeuron_guard.shapes import (
    CalibratedTimesteps,
    ColumnIndices,
    FeatureIndices,
    FeatureValues,
    LatentSlots,
    Membership,
    PolicyNumbers,
    RowMask,
    RowValues,
    TimeMask,
    TimestepDistances,
    Timesteps,
    TimeTable,
)


class RowTables(NamedTuple):
    """The tables at given timesteps: one row for all rows of the batch, or one for each.

    ``target``: ``multiplier * mean``, what a firing latent is multiplied with.
    """

    target: RowValues
    threshold: RowValues
    active: RowMask

    def only(self, policies: PolicyNumbers, columns: PolicyNumbers) -> RowTables:
        """The same, each row with those ``columns`` (numbers of policies) alone that are its policy's.

        ``policies`` (rows,): the number of each row's policy.
        """
        return self._replace(active=self.active & (policies[:, None] == columns[None, :]))


class Column(NamedTuple):
    """A feature of a rule of the policy with this number."""

    policy: int
    rule: Rule
    edit: FeatureEdit


@dataclass(frozen=True, slots=True)
class Columns:
    """The columns on which one action works together: of ``scale`` all, of the others those of one rule of a policy."""

    action: str
    indices: ColumnIndices

    def to(self, device: torch.device) -> Columns:
        """The same on ``device``."""
        return Columns(self.action, self.indices.to(device))


@dataclass(frozen=True, slots=True)
class HookpointTables:
    """All rules at one hookpoint stacked into one table, so that one gather and one product serve every concept.

    ``policies``: the number of each column's policy, all 0 if there is one.

    A feature may have several columns, for rules that edit it at different timesteps.
    ``slots`` (num_latents,): a latent's place among the ``unique`` features, or ``unique`` if nobody selected it;
    ``column_slots``: the same for the feature of each column.
    ``concepts`` names the rules' concepts; ``membership[f, c]`` says whether feature f belongs to concept c.
    ``strength``: 0 in columns of rules that only watch; ``groups``: the columns of the others, by action.
    ``timesteps`` are float32: schedulers such as Euler's have timesteps between whole numbers.
    """

    hookpoint: str
    concepts: tuple[str, ...]
    largest_gap: int
    coder: SparseCoder
    policies: PolicyNumbers
    features: FeatureIndices
    unique: int
    slots: LatentSlots
    column_slots: FeatureIndices
    membership: Membership
    multiplier: FeatureValues
    strength: FeatureValues
    groups: tuple[Columns, ...]
    timesteps: CalibratedTimesteps
    mean: TimeTable
    threshold: TimeTable
    active: TimeMask

    @classmethod
    def build(cls, config: HookpointConfig, coder: SparseCoder) -> HookpointTables:
        """Stack the rules of ``config``; ArtefactError when they contradict themselves or the SAE."""
        return cls.stack([config], coder)

    @classmethod
    def stack(cls, configs: Sequence[HookpointConfig | None], coder: SparseCoder) -> HookpointTables:
        """Stack the rules of several policies at one hookpoint, None for those that do nothing there.

        They have the same SAE and timesteps; a row is edited by the columns of its own policy alone.
        Raises ArtefactError when one contradicts itself or the SAE.
        """
        given = [(number, config) for number, config in enumerate(configs) if config is not None]
        columns: list[Column] = []
        for number, config in given:
            check_sizes(config, coder)
            own = [Column(number, rule, edit) for rule in config.rules for edit in rule.features]
            check_columns(config, own)
            columns += own
        first = given[0][1]
        concepts = tuple(dict.fromkeys(rule.concept for _, config in given for rule in config.rules))
        features = torch.tensor([column.edit.index for column in columns], dtype=torch.int64)
        unique, column_slots = torch.unique(features, return_inverse=True)
        slots = torch.full((first.num_latents,), len(unique), dtype=torch.int64)
        slots[unique] = torch.arange(len(unique))
        edits = [column.edit for column in columns]
        return cls(
            hookpoint=first.hookpoint,
            concepts=concepts,
            largest_gap=min(config.largest_gap for _, config in given),
            coder=coder,
            policies=torch.tensor([column.policy for column in columns], dtype=torch.int64),
            features=features,
            unique=len(unique),
            slots=slots,
            column_slots=column_slots,
            membership=torch.tensor([[column.rule.concept == name for name in concepts] for column in columns]),
            multiplier=torch.tensor([column.rule.multiplier for column in columns], dtype=torch.float32),
            strength=torch.tensor([column.rule.applied for column in columns], dtype=torch.float32),
            groups=_groups(columns),
            timesteps=torch.tensor(first.timesteps, dtype=torch.float32),
            mean=torch.tensor([edit.mean for edit in edits], dtype=torch.float32).T.contiguous(),
            threshold=torch.tensor([edit.threshold for edit in edits], dtype=torch.float32).T.contiguous(),
            active=torch.tensor([edit.active for edit in edits]).T.contiguous(),
        )

    def to(self, device: torch.device) -> HookpointTables:
        """The same tables on ``device``; the SAE is copied, not moved. Always in float32, whatever the model is in."""
        if device == self.features.device:
            return self
        moved: dict[str, Any] = {
            field.name: value.to(device)
            for field in fields(self)
            if isinstance(value := getattr(self, field.name), Tensor)
        }
        groups = tuple(group.to(device) for group in self.groups)
        return replace(self, coder=copy.deepcopy(self.coder).to(device), groups=groups, **moved)

    def at(self, timestep: Timesteps) -> RowTables:
        """The rows of the nearest calibrated timesteps; of two equally near the noisier one. Tensor operations only."""
        nearest = distances(self.timesteps, timestep).argmin(dim=1)
        return RowTables((self.multiplier * self.mean)[nearest], self.threshold[nearest], self.active[nearest])

    def check_timestep(self, timestep: Timesteps) -> None:
        """Raise GuardNotEffective when a timestep is farther than ``largest_gap`` from all calibrated ones.

        Reads one number back to the host, so it runs once per denoiser call, outside the blocks.
        """
        gap = float(distances(self.timesteps, timestep).amin(dim=1).amax())
        if not gap <= self.largest_gap:  # also refuses a timestep that is not a number
            known = self.timesteps.tolist()
            raise GuardNotEffective(
                f"{self.hookpoint}: timestep {timestep.tolist()} is {gap:g} away from the nearest calibrated one, more "
                f"than the {self.largest_gap} that the guard allows (calibrated: {len(known)} from {known[-1]:g} to "
                f"{known[0]:g}). Use a scheduler with timesteps in that range, or calibrate for this one."
            )


def distances(calibrated: CalibratedTimesteps, timestep: Timesteps) -> TimestepDistances:
    """How far each row's timestep is from each calibrated one."""
    return (timestep[:, None] - calibrated[None, :]).abs()


def check_sizes(config: HookpointConfig, coder: SparseCoder) -> None:
    """Raise ArtefactError unless the SAE has the sizes that the configuration states."""
    stated = (config.d_in, config.num_latents, config.k)
    actual = (coder.config.d_in, coder.config.num_latents, coder.config.k)
    if stated != actual:
        raise ArtefactError(
            f"{config.hookpoint}: SAE {config.sae!r} has (d_in, num_latents, k) = {actual}, the guard was compiled for "
            f"{stated}; compile it again"
        )
    if not config.timesteps:
        raise ArtefactError(f"{config.hookpoint}: the guard has no calibrated timesteps; compile it again")


def _groups(columns: Sequence[Column]) -> tuple[Columns, ...]:
    """The editing columns by what works on them together."""
    found: dict[tuple[str, int, str], list[int]] = {}
    for place, (policy, rule, _) in enumerate(columns):
        if rule.applied:
            key = (rule.action, 0, "") if rule.action == "scale" else (rule.action, policy, rule.concept)
            found.setdefault(key, []).append(place)
    return tuple(Columns(action, torch.tensor(indices)) for (action, *_), indices in found.items())


def check_columns(config: HookpointConfig, columns: Sequence[Column]) -> None:
    """Raise ArtefactError for no features at all, an unknown action, and features that can't be looked up or clash."""
    place = config.hookpoint
    for rule in config.rules:
        if rule.action not in ACTIONS:
            raise ArtefactError(
                f"{place}: action {rule.action!r} for {rule.concept!r} is unknown here; expected "
                f"{', '.join(ACTIONS)}. Update saeuron-guard, or compile the policy with this version"
            )
    if not columns:
        raise ArtefactError(f"{place}: no rule selects a feature, so the guard would do nothing there")
    times = len(config.timesteps)
    edited: set[tuple[int, int]] = set()
    for _, rule, edit in columns:
        if not 0 <= edit.index < config.num_latents:
            raise ArtefactError(f"{place}: feature {edit.index} of {rule.concept!r}; the SAE has {config.num_latents}")
        if {len(edit.active), len(edit.mean), len(edit.threshold)} != {times}:
            raise ArtefactError(f"{place}: feature {edit.index} has not one entry for each of {times} timesteps")
        active = {(edit.index, time) for time in range(times) if edit.active[time]}
        if rule.applied == 0:
            continue
        if active & edited:
            raise ArtefactError(
                f"{place}: two rules edit feature {edit.index} at one timestep; compile the policy again"
            )
        edited |= active
