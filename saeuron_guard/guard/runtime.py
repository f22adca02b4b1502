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
from saeuron_guard.guard.intervention import edit
from saeuron_guard.guard.layout import activation_of, from_positions, positions_of, with_activation
from saeuron_guard.guard.tables import HookpointTables, RowTables
from saeuron_guard.guard.tally import GuardReport, HookpointCounts, Tally, count

CAUSES = (
    "Usual causes: a cache that skips blocks (DeepCache, first-block cache), code that calls a block's forward() "
    "instead of the block, a hook removed by other code, a model replaced or compiled after the guard was attached. "
    "Turn that off, then detach and attach the guard again."
)


@dataclass(frozen=True, slots=True)
class DenoiserCall:
    """One forward pass of the denoiser: its timestep, (1,) or one for each row, and which hookpoints it has passed."""

    timestep: Tensor
    passes: dict[str, HookpointCounts] = field(default_factory=dict)


class _State(threading.local):
    """The pipeline call and the denoiser call under way in this thread: threads share the modules, never these."""

    generation: Tally | None = None
    call: DenoiserCall | None = None


class Runtime:
    """The hooks of one attached guard, and the tables they use on each device."""

    def __init__(self, tables: Mapping[str, HookpointTables], timestep_position: int) -> None:
        self._tables = dict(tables)
        self._timestep_position = timestep_position
        self._on_device: dict[tuple[str, torch.device], HookpointTables] = {}
        self._state = _State()
        self._total = Tally()
        self._lock = threading.Lock()

    @contextmanager
    def generation(self) -> Iterator[Tally]:
        """One pipeline call; gives the tally of the denoiser calls that this thread makes in it."""
        before, tally = self._state.generation, Tally()
        self._state.generation = tally
        try:
            yield tally
        finally:
            self._state.generation, self._state.call = before, None
            with self._lock:
                self._total.merge(tally)

    @contextmanager
    def denoiser_call(self, timestep: Tensor) -> Iterator[None]:
        """Pretend that a denoiser call with ``timestep`` (rows,) is under way in this thread; nothing is counted."""
        self._state.call = DenoiserCall(timestep)
        try:
            yield
        finally:
            self._state.call = None

    @property
    def calls(self) -> int:
        """Denoiser calls that were guarded, those of the pipeline calls under way excepted."""
        return self._total.calls

    def report(self, concepts: tuple[str, ...]) -> GuardReport:
        """What fired in all pipeline calls that have ended."""
        with self._lock:
            return self._total.report(concepts)

    def before_denoiser(self) -> Callable[..., None]:
        """A forward pre-hook, with keyword arguments: notes the timestep of the call that begins."""

        def note_timestep(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self._state.call = None
            timestep = _as_rows(self._find_timestep(args, kwargs))
            for hookpoint in self._tables:
                self._tables_on(hookpoint, timestep.device).check_timestep(timestep)
            self._state.call = DenoiserCall(timestep)

        return note_timestep

    def at_hookpoint(self, hookpoint: str) -> Callable[[nn.Module, Any, Any], Any]:
        """A forward hook: edits the block's output for the timestep of the denoiser call under way."""

        def edit_output(_module: nn.Module, _args: Any, output: Any) -> Any:
            call = self._state.call
            if call is None:
                raise GuardNotEffective(
                    f"{hookpoint} ran outside of a call of the denoiser, so its timestep is unknown: something called "
                    f"the denoiser's forward() or the block by itself. {CAUSES}"
                )
            edited, counts = self.apply(hookpoint, output, call.timestep)
            call.passes[hookpoint] = counts
            return edited

        return edit_output

    def after_denoiser(self) -> Callable[[nn.Module, Any, Any], None]:
        """A forward hook that torch also calls after an exception: checks that the call passed every hookpoint."""

        def check_passes(_module: nn.Module, _args: Any, output: Any) -> None:
            call, self._state.call = self._state.call, None
            if output is None:  # an exception is on its way; nothing left the denoiser
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

    def apply(self, hookpoint: str, output: Any, timestep: Tensor) -> tuple[Any, HookpointCounts]:
        """Edit a block's output at ``timestep`` (rows,); gives ``output`` itself when nothing fires."""
        activation = activation_of(output, hookpoint)
        tables = self._tables_on(hookpoint, activation.device)
        x = positions_of(activation, tables.coder.config.d_in, hookpoint)
        if timestep.shape[0] not in (1, x.shape[0]):
            raise GuardNotEffective(
                f"{hookpoint} has {x.shape[0]} rows, the denoiser was given {timestep.shape[0]} timesteps; expected "
                "one timestep for all rows or one for each"
            )
        rows: RowTables = tables.at(timestep.to(activation.device))
        edited = edit(x, tables, rows)
        counts = count(edited.firing, tables, x.shape[0] * x.shape[1])
        if edited.firing is None:
            return output, counts
        return with_activation(output, from_positions(edited.output, activation)), counts

    def _tables_on(self, hookpoint: str, device: torch.device) -> HookpointTables:
        key = (hookpoint, device)
        if key not in self._on_device:
            self._on_device[key] = self._tables[hookpoint].to(device)
        return self._on_device[key]

    def _find_timestep(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if "timestep" in kwargs:
            return kwargs["timestep"]
        if len(args) > self._timestep_position:
            return args[self._timestep_position]
        raise GuardNotEffective("the denoiser was called without a timestep, so the guard cannot look up what to do")

    def _add(self, call: DenoiserCall) -> None:
        if self._state.generation is not None:
            self._state.generation.add_call(call.passes)
            return
        with self._lock:
            self._total.add_call(call.passes)


def _as_rows(timestep: Any) -> Tensor:
    """A timestep as pipelines give it (number, scalar tensor, or a tensor with one for each row) as float32 (rows,)."""
    return torch.as_tensor(timestep).detach().to(torch.float32).reshape(-1)
