"""How often the gate by thresholds decides otherwise than the exact one, on real activations and in pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from saeuron_guard.compiler.config import GuardConfig
from saeuron_guard.errors import CannotEvaluate
from saeuron_guard.guard.branches import unconditional_rows
from saeuron_guard.guard.denoisers import Arguments
from saeuron_guard.guard.guard import Guard
from saeuron_guard.guard.intervention import find_firing
from saeuron_guard.guard.layout import activation_of, positions_of
from saeuron_guard.guard.site import find_site
from saeuron_guard.guard.tables import HookpointTables, RowTables
from saeuron_guard.guard.threshold_gate import firing_by_threshold
from saeuron_guard.registry.records import ModelRecord
from saeuron_guard.verify.drawing import Progress, draw
from saeuron_guard.verify.plan import Shot


@dataclass(slots=True)
class Agreement:
    """Positions, of all images and steps, at which a concept fires by both gates, by one alone, or by none."""

    positions: int = 0
    both: int = 0
    threshold_only: int = 0
    exact_only: int = 0

    @property
    def disagreement(self) -> float:
        """The share of the positions at which any gate fires that one of them does not; 0 where none does."""
        one = self.threshold_only + self.exact_only
        return one / (one + self.both) if one else 0.0


@dataclass(frozen=True, slots=True)
class GatesBenchmark:
    """One guard: agreement by (concept, hookpoint) where the exact gate guards, and both gates' pictures.

    ``identical``: pictures that are the same byte for byte; ``largest``: the largest difference of any value, of 255;
    ``psnr``: of the picture that differs most, in dB, infinite if none does.
    """

    policy: str
    threshold: str
    images: int
    identical: int
    largest: int
    psnr: float
    agreement: Mapping[tuple[str, str], Agreement] = field(default_factory=dict)

    @property
    def disagreement(self) -> float:
        """That of all concepts and hookpoints together."""
        total = Agreement()
        for one in self.agreement.values():
            total.both += one.both
            total.threshold_only += one.threshold_only
            total.exact_only += one.exact_only
        return total.disagreement


@torch.no_grad()
def compare_gates(
    pipe: Any, guard: Guard, model: ModelRecord, shots: Sequence[Shot], threshold: str, on_progress: Progress
) -> GatesBenchmark:
    """Draw ``shots`` with the guard under each gate; under the exact one, ask both at every position.

    ``threshold``: what the guard was compiled with, for the record.
    Raises CannotEvaluate when there is nothing to draw, and the errors of attaching.
    """
    if not shots:
        raise CannotEvaluate("there are no prompts to draw")
    found: dict[tuple[str, str], Agreement] = {}
    with _asking_both(pipe, guard.config, guard.tables, found), _attached(guard, pipe, "exact"):
        exact = draw(pipe, model, shots, "drawing with the exact gate", on_progress)
    with _attached(guard, pipe, "threshold"):
        other = draw(pipe, model, shots, "drawing with the threshold gate", on_progress)
    difference = np.abs(exact.astype(np.int16) - other.astype(np.int16))
    worst = float(np.square(difference / 255).mean(axis=(1, 2, 3)).max())
    return GatesBenchmark(
        policy=guard.config.policy_name,
        threshold=threshold,
        images=len(shots),
        identical=int((difference.reshape(len(shots), -1).max(axis=1) == 0).sum()),
        largest=int(difference.max()),
        psnr=float(-10 * np.log10(worst)) if worst else float("inf"),
        agreement=found,
    )


@contextmanager
def _attached(guard: Guard, pipe: Any, gate: str) -> Iterator[None]:
    guard.attach(pipe, gate=gate)
    try:
        yield
    finally:
        guard.detach()


@contextmanager
def _asking_both(
    pipe: Any, config: GuardConfig, tables: Mapping[str, HookpointTables], found: dict[tuple[str, str], Agreement]
) -> Iterator[None]:
    """Hooks in front of a guard's that count what each gate would say of what the guard is about to edit."""
    site = find_site(pipe, tables)
    arguments = Arguments.of(site.denoiser)
    seen: list[tuple[Tensor, int]] = []

    def note(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        alone = unconditional_rows(pipe, arguments.sample(args, kwargs)) if config.branches == "conditional" else 0
        seen[:] = [(arguments.timestep(args, kwargs), alone)]

    def at(table: HookpointTables) -> Callable[[nn.Module, Any, Any], None]:
        def ask(_module: nn.Module, _args: Any, output: Any) -> None:
            timestep, alone = seen[0]
            x = positions_of(activation_of(output, table.hookpoint), table.coder.config.d_in, table.hookpoint)
            rows = table.at(timestep if timestep.shape[0] == 1 else timestep[alone:])
            count(x[alone:], table, rows, found)

        return ask

    with ExitStack() as stack:
        stack.callback(site.denoiser.register_forward_pre_hook(note, with_kwargs=True).remove)
        for hookpoint, block in site.blocks.items():
            stack.callback(block.register_forward_hook(at(tables[hookpoint])).remove)
        yield


def count(x: Tensor, tables: HookpointTables, rows: RowTables, found: dict[tuple[str, str], Agreement]) -> None:
    """Add to ``found`` at which positions of ``x`` (rows, pos, d_in) each concept fires by each gate."""
    by_threshold = firing_by_threshold(x, tables, rows).fires.reshape(*x.shape[:2], -1)
    exact = torch.zeros_like(by_threshold)
    firing = find_firing(x, tables, rows)
    if firing is not None:
        exact[firing.places[:, 0], firing.places[:, 1]] = firing.fires
    for column, concept in enumerate(tables.concepts):
        own = tables.membership[:, column]
        one, other = exact[..., own].any(-1), by_threshold[..., own].any(-1)
        agreement = found.setdefault((concept, tables.hookpoint), Agreement())
        agreement.positions += one.numel()
        agreement.both += int((one & other).sum())
        agreement.threshold_only += int((other & ~one).sum())
        agreement.exact_only += int((one & ~other).sum())


def document_of(results: Sequence[GatesBenchmark]) -> list[dict[str, Any]]:
    """What was found as JSON values."""
    return [
        {
            "policy": one.policy,
            "threshold": one.threshold,
            "images": one.images,
            "identical": one.identical,
            "largest_difference": one.largest,
            "lowest_psnr": None if one.psnr == float("inf") else one.psnr,
            "disagreement": one.disagreement,
            "concepts": [
                {
                    "concept": concept,
                    "hookpoint": hookpoint,
                    **asdict(agreement),
                    "disagreement": agreement.disagreement,
                }
                for (concept, hookpoint), agreement in sorted(one.agreement.items())
            ],
        }
        for one in results
    ]
