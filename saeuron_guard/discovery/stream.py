"""Activations of a pipeline while it makes images of labelled prompts, step after step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from saeuron_guard.digests import image_seed
from saeuron_guard.discovery.recorder import Recorder, find_module
from saeuron_guard.errors import CannotEvaluate
from saeuron_guard.pipelines.generation import without_progress_bar
from saeuron_guard.prompts.model import Prompt


@dataclass(frozen=True, slots=True)
class Sampling:
    """How images are made: denoising ``steps``, classifier-free ``guidance`` scale, images a ``batch_size``."""

    steps: int = 25
    guidance: float = 5.0
    batch_size: int = 16


@dataclass(frozen=True, slots=True)
class StepActivations:
    """One call of the denoiser, conditional rows only.

    ``timestep``: the scheduler's, rounded to a whole number; ``prompts`` and ``seeds``: of each row;
    ``activations``: per hookpoint (rows, pos, d_in) float32.
    """

    timestep: int
    prompts: tuple[Prompt, ...]
    seeds: tuple[int, ...]
    activations: dict[str, Tensor]


class ActivationStream:
    """Makes an image of each prompt with each of ``seeds`` and hands out what passes the hookpoints.

    At most one batch of images is held at a time: batch_size x steps x pos x d_in x 4 bytes for each hookpoint.
    An image depends on its prompt and seed alone (``digests.image_seed``); their order is shuffled by ``shuffle_seed``.
    """

    def __init__(
        self,
        pipe: Any,
        prompts: Sequence[Prompt],
        hookpoints: Sequence[str],
        *,
        seeds: Sequence[int],
        sampling: Sampling,
        shuffle_seed: int = 0,
    ) -> None:
        """Raises CannotEvaluate without prompts, seeds or hookpoints, ModelMismatch when a hookpoint is not there."""
        if not prompts or not seeds or not hookpoints:
            raise CannotEvaluate("activations need at least one prompt, one seed and one hookpoint")
        self.pipe = pipe
        self.hookpoints = tuple(hookpoints)
        self.sampling = sampling
        self._images = [(prompt, seed) for prompt in prompts for seed in seeds]
        self._shuffle_seed = shuffle_seed
        for hookpoint in hookpoints:
            find_module(pipe, hookpoint)

    @property
    def images(self) -> int:
        """How many images one pass makes."""
        return len(self._images)

    def passes(self, count: int = 1) -> Iterator[StepActivations]:
        """``count`` passes over all images, each in an order of its own."""
        size = self.sampling.batch_size
        for number in range(count):
            order = np.random.default_rng([self._shuffle_seed, number]).permutation(self.images)
            for start in range(0, self.images, size):
                images = [self._images[place] for place in order[start : start + size]]
                yield from self._generate(images, self.sampling.steps)

    def positions(self) -> dict[str, int]:
        """How many positions each hookpoint has, found out by one denoising step of one image."""
        first = next(self._generate(self._images[:1], steps=1))
        return {hookpoint: values.shape[1] for hookpoint, values in first.activations.items()}

    def _generate(self, images: Sequence[tuple[Prompt, int]], steps: int) -> Iterator[StepActivations]:
        prompts = tuple(prompt for prompt, _ in images)
        seeds = tuple(seed for _, seed in images)
        recorder = Recorder(self.hookpoints, len(images), guided=self.sampling.guidance > 1)
        with recorder.attached(self.pipe), without_progress_bar(self.pipe):
            self.pipe(
                prompt=[prompt.text for prompt in prompts],
                num_inference_steps=steps,
                guidance_scale=self.sampling.guidance,
                generator=[torch.Generator().manual_seed(image_seed(prompt.id, seed)) for prompt, seed in images],
                output_type="latent",
            )
        # Handing a call out drops it here, so a consumer that keeps nothing frees memory as it goes.
        recorder.calls.reverse()
        while recorder.calls:
            call = recorder.calls.pop()
            yield StepActivations(call.timestep, prompts, seeds, call.activations)
