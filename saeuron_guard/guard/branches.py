"""Tells which rows of a denoiser call are whose: of which image and branch of guidance, and never by guesswork.

Editing the unconditional branch of classifier-free guidance takes a concept out of what guidance pushes away from,
and so pushes pictures of similar concepts towards it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from saeuron_guard.errors import GuardNotEffective
from saeuron_guard.guard.roster import Assignment
from saeuron_guard.shapes import PolicyNumbers

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
    return equal_half(sample) if is_guided(pipe) else 0


def equal_half(sample: Any) -> int:
    """Half of the rows of ``sample`` (rows, ...) if the first half equals the second; else 0."""
    if not isinstance(sample, Tensor) or sample.shape[0] % 2:
        return 0
    half = sample.shape[0] // 2
    return half if torch.equal(sample[:half], sample[half:]) else 0


@dataclass(frozen=True, slots=True)
class RowLayout:
    """What is known of the rows of a pipeline's denoiser calls.

    ``guided``: tells whether the first half of a call's rows is the unconditional branch, to be left alone, if it has
    the same content as the second; None where all rows are edited.
    ``stacked``: whether more rows than images are branches of guidance, each with the images in their order.
    ``outside``: why calls of the denoiser outside of the guarded pipeline's cannot be guarded, "" if they can.
    """

    guided: Callable[[], bool] | None = None
    stacked: bool = False
    outside: str = ""

    def check(self, images: int, rows: int) -> None:
        """Raise GuardNotEffective unless it is known which of ``images`` each of ``rows`` belongs to."""
        if images in {1, rows} or (self.stacked and rows % images == 0):
            return
        raise GuardNotEffective(
            f"the denoiser was given {rows} rows for {images} images with a policy each (expected {images}, or a "
            "multiple in a pipeline that is known to stack the branches of guidance: SD 1.x, SDXL and SD3), so nobody "
            "knows which row has which policy; images are withheld. Give all images of a call one policy, or name as "
            "many policies as images."
        )


def policies_of(assignment: Assignment | None) -> PolicyNumbers | None:
    """The numbers of the images' policies as a tensor: one for all images, or one for each."""
    return None if assignment is None else torch.tensor(assignment.numbers, dtype=torch.int64)


def policies_of_rows(policies: PolicyNumbers, rows: int) -> PolicyNumbers:
    """The number of the policy of each row, (rows,): rows are images by turns, once for each branch."""
    return policies.repeat(rows // policies.shape[0])
