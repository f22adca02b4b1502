"""Tells the conditional rows of a denoiser call from the unconditional ones, and never by guesswork.

Editing the unconditional branch of classifier-free guidance takes a concept out of what guidance pushes away from,
and so pushes pictures of similar concepts towards it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_TWO_BRANCHES = frozenset(
    f"{family}{task}Pipeline.__call__"
    for family in ("StableDiffusion", "StableDiffusionXL", "StableDiffusion3")
    for task in ("", "Img2Img", "Inpaint")
)
"""Pipeline calls of diffusers that stack [unconditional, conditional] rows and nothing else when guidance is on."""


def stacks_branches(pipeline_class: type[Any]) -> bool:
    """Whether calls of ``pipeline_class`` are among those whose layout is known; a class with its own call is not."""
    call = pipeline_class.__call__
    return call.__qualname__ in _TWO_BRANCHES and call.__module__.startswith("diffusers.pipelines.")


def is_guided(pipe: Any) -> bool:
    """Whether classifier-free guidance is on in the pipeline's call under way."""
    return getattr(pipe, "do_classifier_free_guidance", False) is True


def unconditional_rows(pipe: Any, sample: Any) -> int:
    """How many rows at the start of ``sample`` (rows, ...) belong to the unconditional branch; 0 when that is in doubt.

    ``pipe`` is in a call of a class that ``stacks_branches``.
    Both branches start from the same latents, so anything but two equal halves is another layout.
    Reads one number back to the host.
    """
    if not is_guided(pipe):
        return 0
    if not isinstance(sample, Tensor) or sample.shape[0] % 2:
        return 0
    half = sample.shape[0] // 2
    return half if torch.equal(sample[:half], sample[half:]) else 0
