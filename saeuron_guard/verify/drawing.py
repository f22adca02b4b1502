"""Draws the images of a plan, once without and once with the guard, from the same noise."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import diffusers
import numpy as np

from saeuron_guard.compiler.config import GuardConfig
from saeuron_guard.errors import CannotEvaluate
from saeuron_guard.guard.guard import guarded
from saeuron_guard.guard.images import ImageReport
from saeuron_guard.judges.interface import Images
from saeuron_guard.pipelines.generation import generate
from saeuron_guard.registry.records import ModelRecord
from saeuron_guard.registry.store import FeatureRegistry
from saeuron_guard.verify.plan import Shot
from saeuron_guard.verify.result import PairedImages

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and how much there is."""


@dataclass(frozen=True, slots=True)
class GuardedDrawing:
    """The paired images of some shots, and what the guard reports about the guarded ones, as JSON values.

    ``last``: what fired in each image of the last pipeline call.
    """

    images: PairedImages
    report: dict[str, Any]
    last: tuple[ImageReport, ...] = ()


def draw_pairs(
    pipe: Any, registry: FeatureRegistry, config: GuardConfig, shots: Sequence[Shot], on_progress: Progress
) -> GuardedDrawing:
    """Draw each shot without and with the guard that ``config`` describes; ``pipe`` is its model, unguarded.

    Images that the guard refuses are black.

    Raises GuardNotEffective when the guard did not run in every step, and the errors of attaching it.
    """
    model = registry.model(config.model)
    base = draw(pipe, model, shots, "drawing without the guard", on_progress)
    with guarded(pipe, config, root=registry.artefact_root, refuse="blank") as guard:
        changed = draw(pipe, model, shots, "drawing with the guard", on_progress)
        report = guard.report()
    return GuardedDrawing(PairedImages(base, changed), report.to_json(), report.images)


def draw(pipe: Any, model: ModelRecord, shots: Sequence[Shot], stage: str, on_progress: Progress) -> Images:
    """The image of each shot, uint8 [n, height, width, 3], with the model's registered steps, guidance and sampler.

    ``shots`` must be in order of their seeds. Raises CannotEvaluate for a scheduler that diffusers doesn't have.
    """
    parts: list[Images] = []
    done = 0
    on_progress(stage, done, len(shots))

    def count(_index: int, _image: object) -> None:
        nonlocal done
        done += 1
        on_progress(stage, done, len(shots))

    with _scheduler(pipe, model):
        for seed, group in groupby(shots, key=lambda shot: shot.seed):
            prompts = [shot.prompt for shot in group]
            parts.append(generate(pipe, prompts, seed, steps=model.steps, guidance=model.guidance, on_image=count))
    return np.concatenate(parts) if parts else np.zeros((0, 1, 1, 3), np.uint8)


@contextmanager
def _scheduler(pipe: Any, model: ModelRecord) -> Iterator[None]:
    """Sample with the scheduler that the model's features were found with, and put the pipeline's own back."""
    before = pipe.scheduler
    if type(before).__name__ == model.scheduler:
        yield
        return
    wanted: Any = getattr(diffusers, model.scheduler, None)
    if not (isinstance(wanted, type) and issubclass(wanted, diffusers.SchedulerMixin)):
        raise CannotEvaluate(
            f"model {model.name}: {model.scheduler!r} is no scheduler of the installed diffusers "
            f"{diffusers.__version__}; correct it in the registry's manifest"
        )
    scheduler: Any = wanted
    pipe.scheduler = scheduler.from_config(before.config)
    try:
        yield
    finally:
        pipe.scheduler = before
