"""The hooks of a guard that fires by thresholds: tensors alone, one graph with the model for a compiler.

Nothing is read back from the device while an image forms.  What the exact runtime checks in each denoiser call is
counted in tensors here, and looked at once, before the images of a pipeline call leave.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from saeuron_guard.errors import GuardNotEffective
from saeuron_guard.guard.branches import RowLayout, policies_of, policies_of_rows
from saeuron_guard.guard.denoisers import Arguments
from saeuron_guard.guard.images import ImageTally
from saeuron_guard.guard.intervention import Firing
from saeuron_guard.guard.layout import activation_of, from_positions, positions_of, with_activation
from saeuron_guard.guard.report import GuardReport
from saeuron_guard.guard.roster import Assignment
from saeuron_guard.guard.runtime import CAUSES
from saeuron_guard.guard.tables import HookpointTables, distances
from saeuron_guard.guard.tally import ConceptFindings, count
from saeuron_guard.guard.threshold_gate import edit_by_threshold


@dataclass
class Counters:
    """What is counted at one hookpoint, on its device: passes, positions looked at, and by concept what fired."""

    concepts: tuple[str, ...]
    passes: Tensor
    seen: Tensor
    steps: Tensor
    positions: Tensor
    peak: Tensor

    @classmethod
    def zero(cls, concepts: tuple[str, ...], device: torch.device) -> Counters:
        """Nothing counted yet."""
        passes, seen = (torch.zeros((), dtype=torch.int64, device=device) for _ in range(2))
        steps, positions = (torch.zeros(len(concepts), dtype=torch.int64, device=device) for _ in range(2))
        return cls(concepts, passes, seen, steps, positions, torch.zeros(len(concepts), device=device))


@dataclass
class GraphGeneration:
    """One pipeline call; ``calls`` is known when it has ended.  Single images are not told apart."""

    calls: int = 0
    images: ImageTally = field(default_factory=ImageTally)

    @property
    def tally(self) -> GraphGeneration:
        """Itself: what the watch over the steps asks for the number of calls."""
        return self


class GraphRuntime:
    """As ``runtime.Runtime``, for the gate ``threshold``.

    One pipeline call at a time: what is under way stands in tensors that all threads would share.
    """

    def __init__(
        self,
        tables: Mapping[str, HookpointTables],
        arguments: Arguments,
        layout: RowLayout,
    ) -> None:
        self._tables = dict(tables)
        self._arguments = arguments
        self._layout = layout
        self._counters: dict[str, Counters] = {}
        self._calls = torch.zeros((), dtype=torch.int64)
        self._far = torch.zeros((), dtype=torch.bool)
        self._timestep: Tensor | None = None
        self._edited: Tensor | None = None
        self._policies: Tensor | None = None
        self._total = 0
        self._lock = threading.Lock()

    def prepare(self, device: torch.device) -> None:
        """Put tables and counters on ``device``; what was counted elsewhere stays counted."""
        if self._counters and self._calls.device == device:
            return  # also keeps every object as it is, which a compiled graph remembers
        for hookpoint, tables in self._tables.items():
            self._tables[hookpoint] = tables.to(device)
            counters = self._counters.get(hookpoint) or Counters.zero(tables.concepts, device)
            self._counters[hookpoint] = Counters(
                tables.concepts, **{name: value.to(device) for name, value in _tensors(counters).items()}
            )
        self._calls, self._far = self._calls.to(device), self._far.to(device)

    @contextmanager
    def generation(self, assignment: Assignment | None = None) -> Iterator[GraphGeneration]:
        """One pipeline call; its end raises GuardNotEffective unless each denoiser call passed every hookpoint."""
        if not self._lock.acquire(blocking=False):
            raise GuardNotEffective(
                "another pipeline call is under way with this guard, and the gate 'threshold' serves one at a time; "
                "use the gate 'exact', or attach a guard to a model of its own for each thread"
            )
        found = GraphGeneration()
        before = int(self._calls)
        passed = {hookpoint: int(counters.passes) for hookpoint, counters in self._counters.items()}
        self._far.zero_()
        self._policies = self._placed(assignment)
        try:
            yield found
        finally:
            found.calls = int(self._calls) - before
            self._total += found.calls
            self._timestep = self._policies = None
            self._lock.release()
        self._check(found.calls, passed)

    def _placed(self, assignment: Assignment | None) -> Tensor | None:
        """The policies of images on the device."""
        policies = policies_of(assignment)
        return None if policies is None else policies.to(self._calls.device)

    def _check(self, calls: int, before: Mapping[str, int]) -> None:
        missing = [
            f"{hookpoint} ({int(counters.passes) - before[hookpoint]} of {calls})"
            for hookpoint, counters in self._counters.items()
            if int(counters.passes) - before[hookpoint] != calls
        ]
        if missing:
            raise GuardNotEffective(
                f"expected every denoiser call to pass {len(self._tables)} hookpoints, but {', '.join(missing)} did; "
                f"images are withheld. {CAUSES}"
            )
        if bool(self._far):
            raise GuardNotEffective(
                "a timestep was farther from the calibrated ones than the guard allows; images are withheld. Use a "
                "scheduler with timesteps in that range, or calibrate for this one."
            )

    @contextmanager
    def denoiser_call(self, timestep: Tensor, assignment: Assignment | None = None) -> Iterator[None]:
        """Pretend that a denoiser call with ``timestep`` (rows,) is under way; nothing is counted."""
        self.prepare(timestep.device)
        kept = [(value, value.clone()) for counters in self._counters.values() for value in _tensors(counters).values()]
        self._timestep, self._edited, self._policies = timestep, None, self._placed(assignment)
        try:
            yield
        finally:
            self._timestep = self._policies = None
            for value, before in kept:
                value.copy_(before)

    @property
    def calls(self) -> int:
        """Denoiser calls of the pipeline calls that have ended."""
        return self._total

    def report(self, concepts: tuple[str, ...]) -> GuardReport:
        """What fired in all pipeline calls; waits for the device."""
        return GuardReport(self._total, tuple(self._findings(concept) for concept in concepts))

    def _findings(self, concept: str) -> ConceptFindings:
        steps, positions, seen, peak = 0, 0, 0, 0.0
        for counters in self._counters.values():
            if concept in counters.concepts:
                place = counters.concepts.index(concept)
                steps = max(steps, int(counters.steps[place]))
                positions += int(counters.positions[place])
                seen += int(counters.seen)
                peak = max(peak, float(counters.peak[place]))
        return ConceptFindings(concept, positions > 0, steps, positions / seen if seen else 0.0, peak)

    def before_denoiser(self) -> Callable[..., None]:
        """A forward pre-hook, with keyword arguments: notes the timestep and the rows of the call that begins."""
        arguments = self._arguments

        def note(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            sample = arguments.sample(args, kwargs)
            self._timestep = arguments.timestep(args, kwargs, sample.device)
            self._edited = self._edited_rows(sample)
            if self._layout.outside:
                self._check_policies(sample.shape[0])
            self._calls.add_(1)
            for tables in self._tables.values():
                gap = distances(tables.timesteps, self._timestep).amin(dim=1).amax()
                self._far.logical_or_(~(gap <= tables.largest_gap))

        return note

    def _check_policies(self, rows: int) -> None:
        if self._policies is None:
            raise GuardNotEffective(self._layout.outside)
        self._layout.check(self._policies.shape[0], rows)

    def _edited_rows(self, sample: Tensor) -> Tensor | None:
        """Which rows (rows,) are edited: all but an unconditional half; None for all."""
        rows = sample.shape[0]
        guided = self._layout.guided
        if guided is None or rows % 2 or not guided():
            return None
        stacked = (sample[: rows // 2] == sample[rows // 2 :]).all()
        return (torch.arange(rows, device=sample.device) >= rows // 2) | ~stacked

    def at_hookpoint(self, hookpoint: str) -> Callable[[nn.Module, Any, Any], Any]:
        """A forward hook: edits the block's output for the timestep of the denoiser call under way."""

        def edit_output(_module: nn.Module, _args: Any, output: Any) -> Any:
            if self._timestep is None:
                raise GuardNotEffective(f"{hookpoint} ran outside of a call of the denoiser. {CAUSES}")
            activation = activation_of(output, hookpoint)
            tables, counters = self._tables[hookpoint], self._counters[hookpoint]
            x = positions_of(activation, tables.coder.config.d_in, hookpoint)
            rows = tables.at(self._timestep)
            if self._edited is not None and self._edited.shape[0] == x.shape[0]:
                active = rows.active.expand(x.shape[0], -1) & self._edited[:, None]
                rows = type(rows)(rows.target.expand(x.shape[0], -1), rows.threshold.expand(x.shape[0], -1), active)
            if self._policies is not None:
                rows = rows.only(policies_of_rows(self._policies, x.shape[0]), tables.policies)
            grid = (activation.shape[2], activation.shape[3]) if activation.ndim == 4 else None
            edited = edit_by_threshold(x, tables, rows, grid)
            self._count(counters, tables, edited.firing, x)
            return with_activation(output, from_positions(edited.output, activation))

        return edit_output

    def _count(self, counters: Counters, tables: HookpointTables, firing: Firing | None, x: Tensor) -> None:
        counts = count(firing, tables, (x.shape[0], x.shape[1]), None)
        if counts.positions is None or counts.peak is None:
            raise AssertionError("unreachable: this gate looks at every place")
        if self._edited is not None:
            counters.seen.add_(self._edited.sum() * x.shape[1])
        else:
            counters.seen.add_(counts.seen)
        counters.passes.add_(1)
        counters.steps.add_((counts.positions > 0).to(torch.int64))
        counters.positions.add_(counts.positions)
        counters.peak.copy_(torch.maximum(counters.peak, counts.peak))

    def after_denoiser(self) -> Callable[[nn.Module, Any, Any], None]:
        """A forward hook: the call under way has ended."""

        def forget(_module: nn.Module, _args: Any, _output: Any) -> None:
            self._timestep = None

        return forget


def _tensors(counters: Counters) -> dict[str, Tensor]:
    return {name: value for name, value in vars(counters).items() if isinstance(value, Tensor)}
