"""What a guard costs on a denoiser of SD 1.5's size: time in a denoising step, and memory.

Everything is measured in one process, the variants by turns, and a guard's time inside the very steps that it runs in:
a tenth of a percent of a step is less than what one step differs from the next.
"""

from __future__ import annotations

import os
import random
import resource
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any, Final

import torch
from torch import Tensor

from saeuron_guard.benchmark.full_size import (
    HOOKPOINTS,
    FullSize,
    draw,
    fitted_config,
    make_pipeline,
    write_checkpoints,
)
from saeuron_guard.benchmark.machine import machine_facts
from saeuron_guard.benchmark.rivals import published
from saeuron_guard.benchmark.stopwatch import Stopwatch, begin, end
from saeuron_guard.errors import CannotEvaluate
from saeuron_guard.guard.guard import Guard
from saeuron_guard.guard.layout import activation_of, positions_of
from saeuron_guard.guard.site import block_at
from saeuron_guard.pipelines.fingerprint import fingerprint
from saeuron_guard.sae.sparse_coder import SparseCoder

Log = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Variant:
    """A way to run the step: ``gate`` of the guard, None for no guard, or ``published`` for the published formula.

    ``share``: at which share of the positions the concept fires; ``target``: the largest share of a bare step that one
    hookpoint may cost, if anything was promised.
    """

    name: str
    gate: str | None
    share: float
    target: float | None


VARIANTS: Final = (
    Variant("no guard", None, 0.0, None),
    Variant("exact gate, nothing fires", "exact", 0.0, 0.001),
    Variant("exact gate, fires at 10 %", "exact", 0.1, 0.005),
    Variant("exact gate, fires everywhere", "exact", 1.0, 0.02),
    Variant("threshold gate, nothing fires", "threshold", 0.0, 0.002),
    Variant("threshold gate, fires everywhere", "threshold", 1.0, 0.002),
    Variant("published formula, fires at 10 %", "published", 0.1, None),
)


@dataclass(frozen=True, slots=True)
class Measured:
    """One variant: seconds of each whole step, and of them the seconds spent in hooks, all hookpoints together.

    ``fired``: the share of positions at which the guard says that the concept fired; None without a guard.
    """

    variant: Variant
    steps: tuple[float, ...]
    hooks: tuple[float, ...]
    fired: float | None

    def share(self, bare: float, hookpoints: int) -> float:
        """What one hookpoint costs, as a share of a ``bare`` step."""
        return median(self.hooks) / hookpoints / bare


@dataclass(frozen=True, slots=True)
class OverheadBenchmark:
    """Everything that was measured, and on what.

    ``memory``: the process's resident bytes after each stage; ``seconds``: how long the stages took.
    ``held``: bytes of what a guard holds, by kind.
    """

    size: FullSize
    machine: Mapping[str, Any]
    parameters: int
    positions: int
    measured: tuple[Measured, ...]
    memory: Mapping[str, int | None]
    seconds: Mapping[str, float]
    held: Mapping[str, int]

    @property
    def bare(self) -> float:
        """Seconds of a step without a guard."""
        return median(self.measured[0].steps)

    def met(self, one: Measured) -> bool | None:
        """Whether a variant costs no more than it may; None where nothing was promised, as for other sizes.

        What hooks cost beside the products of large matrices is the same at every size, and so is no share of a step.
        """
        target = one.variant.target
        return None if target is None or self.size.name != "sd15" else one.share(self.bare, len(HOOKPOINTS)) <= target

    @property
    def passed(self) -> bool:
        """Whether every target is met."""
        return all(self.met(one) is not False for one in self.measured)


@dataclass(slots=True)
class _Stages:
    """Memory and time of one stage after another."""

    clock: Callable[[], float]
    log: Log
    memory: dict[str, int | None]
    seconds: dict[str, float]

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        since = self.clock()
        yield
        self.seconds[name] = self.clock() - since
        self.memory[name] = resident()
        self.log(f"{name}: {self.seconds[name]:.2f} s")


@torch.no_grad()
def run_benchmark(
    folder: Path, size: FullSize, repeats: int, clock: Callable[[], float], log: Log
) -> OverheadBenchmark:
    """Build the denoiser, load SAEs from checkpoints below ``folder``, and time steps with and without guards.

    Raises CannotEvaluate when a guard that fires nowhere, or one that was taken off, leaves another image than none.
    """
    machine = machine_facts()
    stages = _Stages(clock, log, {"start": resident()}, {})
    with stages.stage("build the denoiser"):
        pipe = make_pipeline(size)
    with stages.stage("first step"):
        activations, bare = _activations(pipe, size)
    with stages.stage("write the checkpoints"):
        write_checkpoints(folder, size, activations)
    with stages.stage("load the SAEs"):
        coders = {hookpoint: SparseCoder.load(folder / hookpoint) for hookpoint in HOOKPOINTS}
    with stages.stage("make the guards"):
        model = fingerprint(pipe)
        levels = {
            share: Guard(fitted_config(size, coders, activations, share, model), coders)
            for share in sorted({variant.share for variant in VARIANTS})
        }
    _end_to_end(pipe, size, levels[0.1], stages, bare)
    measured = _measure(pipe, size, levels, repeats, clock, log)
    return OverheadBenchmark(
        size=size,
        machine=machine,
        parameters=sum(parameter.numel() for parameter in pipe.unet.parameters()),
        positions=next(iter(activations.values())).shape[0],
        measured=measured,
        memory={**stages.memory, "largest": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024},
        seconds=stages.seconds,
        held=_held(levels[0.1]),
    )


def _activations(pipe: Any, size: FullSize) -> tuple[dict[str, Tensor], Tensor]:
    """What passes the hookpoints in one step, (positions of all rows, d_in) each, and what the step gives."""
    found: dict[str, Tensor] = {}
    with ExitStack() as stack:
        for hookpoint in HOOKPOINTS:

            def keep(_module: Any, _args: Any, output: Any, name: str = hookpoint) -> None:
                found[name] = positions_of(activation_of(output, name), size.d_in, name).flatten(0, 1).clone()

            stack.callback(block_at(pipe.unet, hookpoint).register_forward_hook(keep).remove)
        return found, draw(pipe, size)


def _end_to_end(pipe: Any, size: FullSize, guard: Guard, stages: _Stages, bare: Tensor) -> None:
    """Attach, run a step, detach: what each takes; afterwards the pipeline gives what it gave before."""
    with stages.stage("attach"):
        guard.attach(pipe)
    with stages.stage("guarded step"):
        guarded = draw(pipe, size)
    with stages.stage("detach"):
        guard.detach()
    if torch.equal(guarded, bare):
        raise CannotEvaluate("the guard changed nothing in an image in which its concept fires")
    if not torch.equal(draw(pipe, size), bare):
        raise CannotEvaluate("after the guard was detached, the pipeline gave another image than before")
    with stages.stage("step after it"):
        draw(pipe, size)


def _measure(
    pipe: Any, size: FullSize, levels: Mapping[float, Guard], repeats: int, clock: Callable[[], float], log: Log
) -> tuple[Measured, ...]:
    """Every variant once in each round, in an order that is drawn anew for each: a step is faster after some others."""
    order = random.Random(size.seed)  # noqa: S311 - an order that repeats, no secret
    steps: dict[Variant, list[float]] = {variant: [] for variant in VARIANTS}
    hooks: dict[Variant, list[float]] = {variant: [] for variant in VARIANTS}
    fired: dict[Variant, float | None] = {}
    images: dict[Variant, Tensor] = {}
    for number in range(repeats):
        for variant in order.sample(VARIANTS, len(VARIANTS)):
            watch = Stopwatch(clock)
            with _installed(pipe, variant, levels[variant.share], watch) as share_of:
                since = clock()
                images[variant] = draw(pipe, size)
                steps[variant].append(clock() - since)
                fired[variant] = share_of()
            hooks[variant].append(watch.seconds)
        log(f"round {number + 1} of {repeats}")
    for variant in VARIANTS:
        silent = variant.gate is not None and variant.share == 0
        if silent and not torch.equal(images[variant], images[VARIANTS[0]]):
            raise CannotEvaluate(f"{variant.name}: the image differs from the one without a guard")
    return tuple(Measured(each, tuple(steps[each]), tuple(hooks[each]), fired[each]) for each in VARIANTS)


@contextmanager
def _installed(pipe: Any, variant: Variant, guard: Guard, watch: Stopwatch) -> Iterator[Callable[[], float | None]]:
    """The hooks of ``variant`` with ``watch`` around them; gives what tells the share of positions that fired."""
    blocks = [block_at(pipe.unet, hookpoint) for hookpoint in HOOKPOINTS]
    with ExitStack() as stack:
        stack.enter_context(begin(watch, pipe.unet, blocks))
        if variant.gate == "published":
            stack.enter_context(published(pipe, guard.config, guard.coders))
        elif variant.gate is not None:
            guard.attach(pipe, gate=variant.gate)
            stack.callback(guard.detach)
        stack.enter_context(end(watch, pipe.unet, blocks))
        guarded = variant.gate in {"exact", "threshold"}
        yield lambda: guard.report().concepts[0].positions if guarded else None


def _held(guard: Guard) -> dict[str, int]:
    """Bytes of the tensors that an attached guard holds."""
    coders = sum(tensor.nbytes for coder in guard.coders.values() for tensor in coder.state_dict().values())
    rest = sum(value.nbytes for table in guard.tables.values() for value in _tensors_of(table))
    return {"weights of the SAEs": coders, "tables": rest}


def _tensors_of(table: Any) -> Iterator[Tensor]:
    for name in table.__slots__:
        value = getattr(table, name)
        if isinstance(value, Tensor):
            yield value


def resident() -> int | None:
    """Bytes of this process in memory; None where the system doesn't tell."""
    path = Path("/proc/self/statm")
    return int(path.read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE") if path.is_file() else None


def document_of(found: OverheadBenchmark) -> dict[str, Any]:
    """What was found as JSON values, in the order in which people read it."""
    return {
        "passed": found.passed,
        "machine": dict(found.machine),
        "size": {**asdict(found.size), "unet": dict(found.size.unet)},
        "parameters": found.parameters,
        "positions": found.positions,
        "hookpoints": list(HOOKPOINTS),
        "variants": [
            {
                **asdict(one.variant),
                "fired": one.fired,
                "steps": list(one.steps),
                "hooks": list(one.hooks),
                "step": median(one.steps),
                "share_a_hookpoint": one.share(found.bare, len(HOOKPOINTS)),
                "met": found.met(one),
            }
            for one in found.measured
        ],
        "seconds": dict(found.seconds),
        "resident": dict(found.memory),
        "held": dict(found.held),
    }
