"""Other ways of removing a concept, as hooks at the guard's hookpoints: what the guard has to be better than.

``published`` is the formula of SAeUron's published code with its sign error; it lives here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from saeuron_guard.compiler.config import GuardConfig
from saeuron_guard.discovery.concept_statistics import ConceptStatistics
from saeuron_guard.discovery.recorder import find_module
from saeuron_guard.guard.branches import unconditional_rows
from saeuron_guard.guard.denoisers import Arguments
from saeuron_guard.guard.layout import activation_of, from_positions, positions_of, with_activation
from saeuron_guard.guard.tables import HookpointTables
from saeuron_guard.sae.sparse_coder import SparseCoder

Edit = Callable[[Tensor, Tensor], Tensor]
"""From activations (batch, pos, d_in) and the timestep (1,) to edited activations."""


@contextmanager
def published(pipe: Any, config: GuardConfig, coders: Mapping[str, SparseCoder]) -> Iterator[None]:
    """The published formula with the features, means and thresholds of ``config``.

    ``x' = z' W_dec + b_dec + (x_hat - x)``: it adds the SAE's error with the wrong sign, so that with nothing edited
    the output is ``2 x_hat - x``, not ``x``.
    """
    edits = {
        point.hookpoint: _published_edit(HookpointTables.build(point, coders[point.hookpoint]))
        for point in config.hookpoints
    }
    with _hooked(pipe, edits):
        yield


@contextmanager
def mean_difference(
    pipe: Any, directions: Mapping[str, Directions], factor: float, branches: str = "all"
) -> Iterator[None]:
    """``x' = x - factor max(<x, s>, 0) s`` with one unit direction s a hookpoint and timestep.

    ``factor`` 1 projects the direction out, 2 is CASteer's reflection (arXiv 2503.09630), more pushes further.
    ``branches``: those of classifier-free guidance to edit.
    """
    edits = {hookpoint: _steering_edit(given, factor) for hookpoint, given in directions.items()}
    with _hooked(pipe, edits, branches):
        yield


class Directions:
    """Unit vectors (T, d_in) from the other concepts of the domain to one concept, at ``timesteps`` (T,)."""

    def __init__(self, statistics: ConceptStatistics, concept: str) -> None:
        names = statistics.table.names
        members = statistics.table.members(statistics.table.domain_of(concept))
        others = [row for row in range(members.start, members.stop) if names[row] != concept]
        mean = torch.from_numpy(statistics.mean)
        # A concept alone in its domain has no others: its own mean is then what sets it apart.
        difference = mean[names.index(concept)] - (mean[others].mean(0) if others else 0)
        self.vectors = torch.nn.functional.normalize(difference, dim=-1)
        self.timesteps = torch.tensor(statistics.timesteps, dtype=torch.float32)

    def at(self, timestep: Tensor) -> Tensor:
        """The direction (d_in,) at the nearest timestep."""
        return self.vectors[(self.timesteps - timestep[0]).abs().argmin()]


def _published_edit(tables: HookpointTables) -> Edit:
    def edit(x: Tensor, timestep: Tensor) -> Tensor:
        rows = tables.at(timestep)
        z = tables.coder.encode(x)
        chosen = z[..., tables.features]
        fires = rows.active[:, None] & (chosen > rows.threshold[:, None])
        edited = z.clone()
        edited[..., tables.features] = torch.where(fires, rows.target[:, None] * chosen, chosen)
        return tables.coder.decode(edited) + tables.coder.decode(z) - x

    return edit


def _steering_edit(directions: Directions, factor: float) -> Edit:
    def edit(x: Tensor, timestep: Tensor) -> Tensor:
        direction = directions.at(timestep)
        return x - factor * (x @ direction).clamp_min(0)[..., None] * direction

    return edit


@contextmanager
def _hooked(pipe: Any, edits: Mapping[str, Edit], branches: str = "all") -> Iterator[None]:
    """Apply ``edits`` at their hookpoints inside the block; one pipeline call at a time."""
    seen: list[Tensor] = []
    left: list[int] = []

    denoiser = getattr(pipe, next(iter(edits)).partition(".")[0])
    arguments = Arguments.of(denoiser)

    def note(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen[:] = [arguments.timestep(args, kwargs)[:1]]
        sample = arguments.sample(args, kwargs)
        left[:] = [unconditional_rows(pipe, sample) if branches == "conditional" else 0]

    def at(hookpoint: str, edit: Edit) -> Callable[[nn.Module, Any, Any], Any]:
        def replace(_module: nn.Module, _args: Any, output: Any) -> Any:
            activation = activation_of(output, hookpoint)
            x = positions_of(activation, activation.shape[1], hookpoint)
            edited = edit(x[left[0] :].float(), seen[0]).to(x.dtype)
            return with_activation(output, from_positions(torch.cat([x[: left[0]], edited]), activation))

        return replace

    with ExitStack() as stack, torch.no_grad():
        stack.callback(denoiser.register_forward_pre_hook(note, with_kwargs=True).remove)
        for hookpoint, edit in edits.items():
            stack.callback(find_module(pipe, hookpoint).register_forward_hook(at(hookpoint, edit)).remove)
        yield
