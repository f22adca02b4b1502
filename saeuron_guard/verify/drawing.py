"""Draws the images of a plan, once without and once with the guard, from the same noise."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from typing import Any

import diffusers
import numpy as np

from saeuron_guard.errors import CannotEvaluate
from saeuron_guard.judges.interface import Images
from saeuron_guard.pipelines.generation import generate
from saeuron_guard.registry.records import ModelRecord
from saeuron_guard.verify.plan import Shot

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and how much there is."""


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
