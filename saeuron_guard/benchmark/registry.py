"""How long commands take on a registry as large as that of a real model, beside how long they may take.

Each piece of work is timed twice: in this process, everything imported, and as ``python -m saeuron_guard`` is run,
start of the interpreter and imports included.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any, Final

import saeuron_guard
from saeuron_guard.benchmark import synthetic
from saeuron_guard.benchmark.machine import machine_facts
from saeuron_guard.benchmark.registry_folder import Log, Notes, removed_concepts, write_home
from saeuron_guard.benchmark.synthetic import Size
from saeuron_guard.compiler.compile import compile_policy
from saeuron_guard.compiler.config import GuardConfig
from saeuron_guard.compiler.explain import explain_policy
from saeuron_guard.compiler.lookup import look_up
from saeuron_guard.errors import CannotEvaluate
from saeuron_guard.policy.load import load_policy
from saeuron_guard.registry.pages import concept_page, feature_page
from saeuron_guard.registry.store import MANIFEST, FeatureRegistry

PUBLISHED_BYTES: Final = 10_700_000_000
"""SAeUron's statistics of 70 concepts at one hookpoint: pickles in half precision, [prompts, timesteps, latents]."""

COMPILE_SECONDS: Final = 2.0
SHOW_SECONDS: Final = 0.5
"""What a person waits for without thinking of something else: a compilation, an answer."""


@dataclass(frozen=True, slots=True)
class Clock:
    """Two clocks that give seconds: ``wall``, and ``processor`` of this process and of those that it waited for."""

    wall: Callable[[], float]
    processor: Callable[[], float]


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds of each repetition of ``work``; ``target`` is what their median may be, if anything was promised.

    ``processor``: seconds of processors in each repetition, by which a busy machine is known.
    """

    work: str
    where: str
    seconds: tuple[float, ...]
    processor: tuple[float, ...]
    target: float | None

    @property
    def median(self) -> float:
        """Half of the repetitions were quicker."""
        return median(self.seconds)

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None without one."""
        return None if self.target is None else self.median < self.target


@dataclass(frozen=True, slots=True)
class RegistryBenchmark:
    """Everything that was measured, and on what."""

    size: Size
    machine: Mapping[str, Any]
    notes: Notes
    guard: GuardConfig
    timings: tuple[Timing, ...]

    @property
    def passed(self) -> bool:
        """Whether every target is met."""
        return all(timing.met is not False for timing in self.timings)


def run_benchmark(folder: Path, size: Size, repeats: int, clock: Clock, log: Log) -> RegistryBenchmark:
    """Make a registry below the empty ``folder`` and time work on it.

    Raises CannotEvaluate when a command fails.
    """
    machine = machine_facts()
    notes = Notes(clock.wall, log)
    policy = write_home(folder, size, notes)
    manifest = folder / "registry" / MANIFEST
    with FeatureRegistry.built(manifest=manifest) as registry:
        guard = compile_policy(load_policy(policy), registry)
    concept, feature = _shown(size, guard)
    timings = []
    for work, target, act in _in_process(policy, manifest, concept, feature):
        timings.append(Timing(work, "in process", *_timed(act, repeats, clock), target))
        log(f"{work}: {timings[-1].median:.3f} s")
    for work, target, arguments in _commands(policy, folder / "guard", concept, feature):
        act = _command(folder, arguments)
        timings.append(Timing(work, "whole process", *_timed(act, repeats, clock), target))
        log(f"{work} as a process: {timings[-1].median:.3f} s")
    return RegistryBenchmark(size, machine, notes, guard, tuple(timings))


def _shown(size: Size, guard: GuardConfig) -> tuple[str, str]:
    """The concept to show, and the feature: the one that most retained concepts need, else the first that is edited."""
    named = sorted(collision.feature for collision in guard.collisions)
    if named:
        return removed_concepts(size)[0], max(named, key=named.count)
    point = guard.hookpoints[0]
    return removed_concepts(size)[0], f"{point.sae}:{point.rules[0].features[0].index}"


def _in_process(
    policy: Path, manifest: Path, concept: str, feature: str
) -> Iterator[tuple[str, float | None, Callable[[], object]]]:
    """Work by name, what it may take, and how to do it once: nothing is kept from one time to the next."""

    def opened(act: Callable[[FeatureRegistry], object]) -> Callable[[], object]:
        def once() -> object:
            with FeatureRegistry.built(manifest=manifest) as registry:
                return act(registry)

        return once

    yield "open the registry", None, opened(lambda registry: registry.place)
    yield "compile_policy", COMPILE_SECONDS, opened(lambda registry: compile_policy(load_policy(policy), registry))
    yield "policy explain", COMPILE_SECONDS, opened(lambda registry: explain_policy(load_policy(policy), registry))
    yield "registry show CONCEPT", SHOW_SECONDS, opened(lambda registry: concept_page(registry, concept))
    yield "registry show SAE:INDEX", SHOW_SECONDS, opened(lambda registry: feature_page(registry, feature))
    yield "policy validate", SHOW_SECONDS, opened(lambda registry: look_up(load_policy(policy), registry))


def _commands(
    policy: Path, out: Path, concept: str, feature: str
) -> Iterator[tuple[str, float | None, tuple[str, ...]]]:
    """The same as commands. ``compile`` also copies and checks the SAEs' weights, so what it may take is theirs."""
    file = str(policy)
    yield "--version", None, ("--version",)
    yield "policy explain", COMPILE_SECONDS, ("policy", "explain", file)
    yield "registry show CONCEPT", SHOW_SECONDS, ("registry", "show", concept)
    yield "registry show SAE:INDEX", SHOW_SECONDS, ("registry", "show", feature)
    yield "policy validate", SHOW_SECONDS, ("policy", "validate", file)
    yield "compile", None, ("compile", file, "--out", str(out), "--force")


def _command(home: Path, arguments: tuple[str, ...]) -> Callable[[], object]:
    """Runs the program on the registry in ``home``, as a process of its own."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SAEURON_GUARD_")}
    environment["SAEURON_GUARD_HOME"] = str(home)
    package = Path(saeuron_guard.__file__).resolve().parents[1]
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(package), environment.get("PYTHONPATH"))))

    def once() -> None:
        command = [sys.executable, "-m", "saeuron_guard", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        if done.returncode:
            raise CannotEvaluate(
                f"saeuron-guard {' '.join(arguments)} failed with exit code {done.returncode}: {done.stderr.strip()}"
            )

    return once


def _timed(act: Callable[[], object], repeats: int, clock: Clock) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """How long each repetition takes, and how long processors worked on it; one before them fills caches."""
    act()
    found = []
    for _ in range(repeats):
        wall, processor = clock.wall(), clock.processor()
        act()
        found.append((clock.wall() - wall, clock.processor() - processor))
    wall_seconds, processor_seconds = zip(*found, strict=True)
    return wall_seconds, processor_seconds


def document_of(found: RegistryBenchmark) -> dict[str, Any]:
    """What was found as JSON values, in the order in which people read it."""
    return {
        "passed": found.passed,
        "machine": dict(found.machine),
        "size": asdict(found.size),
        "assumptions": {
            "latent_spread": synthetic.LATENT_SPREAD,
            "concept_spread": synthetic.CONCEPT_SPREAD,
            "positions_a_patch": synthetic.PATCH,
            "positions_a_concept": synthetic.PROMPTS * synthetic.POSITIONS,
        },
        "counts": dict(found.notes.counts),
        "share_of_cells": found.notes.counts["cells"] / found.size.cells,
        "bytes": {**found.notes.sizes, "published statistics, one hookpoint": PUBLISHED_BYTES},
        "seconds": dict(found.notes.seconds),
        "guard": _guard_counts(found.guard),
        "timings": [
            {**asdict(timing), "median": timing.median, "met": timing.met}
            for timing in found.timings
        ],
    }  # fmt: skip


def _guard_counts(guard: GuardConfig) -> dict[str, int]:
    rules = [rule for point in guard.hookpoints for rule in point.rules]
    return {
        "concepts": len({rule.concept for rule in rules}),
        "features": sum(len(rule.features) for rule in rules),
        "merges": len(guard.merges),
        "collisions": len(guard.collisions),
    }
