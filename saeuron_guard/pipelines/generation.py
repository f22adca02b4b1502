"""Draws the pictures of many prompts so that each depends on its own prompt and seed alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from saeuron_guard.digests import image_seed
from saeuron_guard.prompts.model import Prompt

Images = npt.NDArray[np.uint8]


def generate(
    pipe: Any,
    prompts: Sequence[Prompt],
    seed: int,
    *,
    steps: int,
    guidance: float,
    batch_size: int = 8,
    on_image: Callable[[int, Images], None] | None = None,
) -> Images:
    """One picture of each prompt, (n, height, width, 3) in 0..255, in the order of ``prompts``.

    Each picture starts from noise of its own generator, seeded by the prompt's id and ``seed``: order, batch size and
    the number of processes change nothing but the last bits of a matrix product.
    ``on_image(index, picture)`` is called for each picture as its batch ends.
    The pipeline's own progress bar stays off meanwhile.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; expected at least 1")
    pictures: list[Images] = []
    with without_progress_bar(pipe):
        for start in range(0, len(prompts), batch_size):
            batch = prompts[start : start + batch_size]
            for picture in _draw(pipe, batch, seed, steps, guidance):
                pictures.append(picture)
                if on_image is not None:
                    on_image(len(pictures) - 1, picture)
    if not pictures:
        return np.zeros((0, *picture_size(pipe), 3), dtype=np.uint8)
    return np.stack(pictures)


def picture_size(pipe: Any) -> tuple[int, int]:
    """Height and width of the pictures that the pipeline draws when it is not asked for another size."""
    denoiser = getattr(pipe, "unet", None) or pipe.transformer
    sample_size = denoiser.config.sample_size
    height, width = (sample_size, sample_size) if isinstance(sample_size, int) else sample_size
    return height * pipe.vae_scale_factor, width * pipe.vae_scale_factor


def _draw(pipe: Any, prompts: Sequence[Prompt], seed: int, steps: int, guidance: float) -> Images:
    generators = [torch.Generator("cpu").manual_seed(image_seed(prompt.id, seed)) for prompt in prompts]
    output = pipe(
        prompt=[prompt.text for prompt in prompts],
        num_inference_steps=steps,
        guidance_scale=guidance,
        generator=generators,
        output_type="np",
    )
    return np.asarray((output.images * 255).round().clip(0, 255), dtype=np.uint8)


@contextmanager
def without_progress_bar(pipe: Any) -> Iterator[None]:
    """Hide the pipeline's own progress bar inside the block, and give back its settings."""
    before = getattr(pipe, "_progress_bar_config", None)
    pipe.set_progress_bar_config(**{**(before or {}), "disable": True})
    try:
        yield
    finally:
        if before is None:
            del pipe._progress_bar_config  # noqa: SLF001 - diffusers can set it but not take it back
        else:
            pipe.set_progress_bar_config(**before)
