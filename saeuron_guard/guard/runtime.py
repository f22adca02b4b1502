"""What the hooks do in each denoiser call, and the state of the calls under way, one for each thread."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from saeuron_guard.errors import GuardNotEffective
from saeuron_guard.guard.branches import RowLayout, equal_half, policies_of, policies_of_rows
from saeuron_guard.guard.denoisers import Arguments
from saeuron_guard.guard.images import ImageTally
from saeuron_guard.guard.intervention import edit
from saeuron_guard.guard.layout import activation_of, from_positions, positions_of, with_activation
from saeuron_guard.guard.report import GuardReport
from saeuron_guard.guard.roster import Assignment
from saeuron_guard.guard.tables import HookpointTables
from saeuron_guard.guard.tally import HookpointCounts, Tally, count

CAUSES = (
    "Usual causes: a cache that skips blocks (DeepCache, first-block cache), code that calls a block's forward() "
    "instead of the block, a hook removed by other code, a model replaced or compiled after the guard was attached. "
    "Turn that off, then detach and attach the guard again."
)


@dataclass(frozen=True, slots=True)
class DenoiserCall:
    """One forward pass of the denoiser: its timestep, (1,) or one for each row, and which hookpoints it has passed.

    The first ``unconditional`` rows are left as they are.
    ``policies``: numbers of the images' policies, one for all or one for each; None where all rows have the only one.
    """

    timestep: Tensor
    unconditional: int = 0
    policies: Tensor | None = None
    passes: dict[str, HookpointCounts] = field(default_factory=dict)


@dataclass(slots=True)
class Generation:
    """One pipeline call: the policies of its images, what was counted in all and image by image, what went wrong."""

    policies: Tensor | None = None
    tally: Tally = field(default_factory=Tally)
    images: ImageTally = field(default_factory=ImageTally)
    problems: list[Exception] = field(default_factory=list)

    def add_call(self, call: DenoiserCall) -> None:
        """Add a denoiser call that passed every hookpoint."""
        self.tally.add_call(call.passes)
        self.images.add_call(call.passes, call.timestep)


class _State(threading.local):
    """The pipeline call and the denoiser call under way in this thread: threads share the modules, never these."""

    generation: Generation | None = None
    call: DenoiserCall | None = None
    rows: int | None = None
    noted: bool = False


class Runtime:
    """The hooks of one attached guard, and the tables they use on each device.

    ``arguments``: how to read the denoiser's.
    ``layout``: what is known of the rows of its calls.
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
        self._on_device: dict[tuple[str, torch.device], HookpointTables] = {}
        self._state = _State()
        self.acts: Callable[[], bool] = lambda: True
        """Whether the model's calls in this thread are this guard's to watch; only guards in succession differ."""
        self._total = Tally()
        self._last = ImageTally()
        self._lock = threading.Lock()

    @contextmanager
    def generation(self, assignment: Assignment | None = None) -> Iterator[Generation]:
        """One pipeline call; gives what is counted of the denoiser calls that this thread makes in it."""
        before, generation = (self._state.generation, self._state.rows), Generation(policies_of(assignment))
        self._state.generation, self._state.rows = generation, None
        try:
            yield generation
        finally:
            self._state.generation, self._state.rows = before
            self._state.call = None
            with self._lock:
                self._total.merge(generation.tally)
                self._last = generation.images

    @contextmanager
    def denoiser_call(self, timestep: Tensor, assignment: Assignment | None = None) -> Iterator[None]:
        """Pretend that a denoiser call with ``timestep`` (rows,) is under way in this thread; nothing is counted."""
        self._state.call = DenoiserCall(timestep, policies=policies_of(assignment))
        try:
            yield
        finally:
            self._state.call = None

    @property
    def calls(self) -> int:
        """Denoiser calls that were guarded, those of the pipeline calls under way excepted."""
        return self._total.calls

    def report(self, concepts: tuple[str, ...]) -> GuardReport:
        """What fired in all pipeline calls that have ended, and in each image of the last of them."""
        with self._lock:
            return GuardReport(self._total.calls, self._total.findings(concepts), self._last.reports(concepts))

    def before_denoiser(self) -> Callable[..., None]:
        """A forward pre-hook, with keyword arguments: notes the timestep of the call that begins."""

        def note_timestep(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None) -> None:
            self._state.call, self._state.noted = None, False
            # torch marks a hook as one with keyword arguments after it has put it there, so that in another thread it
            # may be called without, while guards follow one another; it does not act there then.
            if not self.acts():
                return
            kwargs = kwargs or {}
            timestep, sample = self._arguments.timestep(args, kwargs), self._arguments.sample(args, kwargs)
            if timestep.is_meta or getattr(sample, "is_meta", False):
                raise GuardNotEffective(
                    "the denoiser was called on the meta device, which computes shapes without data, so nothing can be "
                    "guarded there; move the pipeline to a device, then attach the guard again"
                )
            for hookpoint in self._tables:
                self._tables_on(hookpoint, timestep.device).check_timestep(timestep)
            policies = self._policies(sample)
            self._state.call = DenoiserCall(timestep, self._left_alone(sample), policies)

        return note_timestep

    def at_hookpoint(self, hookpoint: str) -> Callable[[nn.Module, Any, Any], Any]:
        """A forward hook: edits the block's output for the timestep of the denoiser call under way."""

        def edit_output(_module: nn.Module, _args: Any, output: Any) -> Any:
            if not self.acts():
                return output
            call = self._state.call
            if call is None:
                raise GuardNotEffective(
                    f"{hookpoint} ran outside of a call of the denoiser, so its timestep is unknown: something called "
                    f"the denoiser's forward() or the block by itself. {CAUSES}"
                )
            edited, counts = self.apply(hookpoint, output, call)
            call.passes[hookpoint] = counts
            return edited

        return edit_output

    def after_denoiser(self) -> Callable[[nn.Module, Any, Any], None]:
        """A forward hook that torch also calls after an exception: checks that the call passed every hookpoint."""

        def check_passes(_module: nn.Module, _args: Any, output: Any) -> None:
            call, self._state.call = self._state.call, None
            if output is None or not self.acts():  # None: an exception is on its way; nothing left the denoiser
                return
            passed = set(call.passes) if call else set()
            missing = [hookpoint for hookpoint in self._tables if hookpoint not in passed]
            if call is None or missing:
                raise GuardNotEffective(
                    f"a denoiser call ended without passing {', '.join(missing)} (expected {len(self._tables)} "
                    f"hookpoints, saw {len(passed)}), so its result is withheld. {CAUSES}"
                )
            self._add(call)

        return check_passes

    def apply(self, hookpoint: str, output: Any, call: DenoiserCall) -> tuple[Any, HookpointCounts]:
        """Edit a block's output in ``call``; gives ``output`` itself when nothing fires."""
        activation = activation_of(output, hookpoint)
        tables = self._tables_on(hookpoint, activation.device)
        x = positions_of(activation, tables.coder.config.d_in, hookpoint)
        if call.timestep.shape[0] not in (1, x.shape[0]):
            raise GuardNotEffective(
                f"{hookpoint} has {x.shape[0]} rows, the denoiser was given {call.timestep.shape[0]} timesteps; "
                "expected one timestep for all rows or one for each"
            )
        # FasterCache runs the blocks for the conditional half alone: then no row is one to leave alone.
        first = call.unconditional if x.shape[0] == 2 * call.unconditional else 0
        timestep = call.timestep if call.timestep.shape[0] == 1 else call.timestep[first:]
        rows = tables.at(timestep.to(activation.device))
        if call.policies is not None:
            rows = rows.only(policies_of_rows(call.policies, x.shape[0])[first:].to(activation.device), tables.policies)
        grid = (activation.shape[2], activation.shape[3]) if activation.ndim == 4 else None
        edited = edit(x[first:], tables, rows, grid)
        counts = count(edited.firing, tables, (x.shape[0] - first, x.shape[1]), grid)
        if edited.firing is None:
            return output, counts
        whole = torch.cat([x[:first], edited.output]) if first else edited.output
        return with_activation(output, from_positions(whole, activation)), counts

    def _left_alone(self, sample: Any) -> int:
        """How many rows of a denoiser call to leave alone.

        0 outside of pipeline calls, and for calls with other rows than the first of the pipeline call: those are no
        guidance steps, whatever they look like.
        """
        guided = self._layout.guided
        if guided is None or self._state.generation is None or not isinstance(sample, Tensor):
            return 0
        if self._state.rows is None:
            self._state.rows = sample.shape[0]
        return equal_half(sample) if guided() and sample.shape[0] == self._state.rows else 0

    def _policies(self, sample: Any) -> Tensor | None:
        """The policies of the images that a denoiser call makes; None where there is one for everything."""
        generation = self._state.generation
        if generation is None and self._layout.outside:
            raise GuardNotEffective(self._layout.outside)
        if generation is None or generation.policies is None:
            return None
        self._layout.check(generation.policies.shape[0], sample.shape[0])
        return generation.policies

    def note(self, error: Exception) -> bool:
        """Remember what went wrong in this thread's pipeline call; without one, in its call of the denoiser.

        Gives whether somebody knows already, or will be told when the pipeline call ends.
        """
        generation, known = self._state.generation, self._state.noted
        if generation is not None:
            generation.problems.append(error)
            return True
        self._state.noted = True
        return known

    def _tables_on(self, hookpoint: str, device: torch.device) -> HookpointTables:
        key = (hookpoint, device)
        if key not in self._on_device:
            self._on_device[key] = self._tables[hookpoint].to(device)
        return self._on_device[key]

    def _add(self, call: DenoiserCall) -> None:
        if self._state.generation is not None:
            self._state.generation.add_call(call)
            return
        with self._lock:
            self._total.add_call(call.passes)
