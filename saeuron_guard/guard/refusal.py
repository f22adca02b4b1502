"""Takes refused images out of what a pipeline gives, and leaves the others."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
import torch
from PIL import Image

from saeuron_guard.errors import GuardNotEffective


def with_blanks(output: Any, refused: Collection[int]) -> Any:
    """``output`` of a pipeline with black images, or zeros of the VAE's latents, in place of the ``refused`` ones.

    Outputs other than tuples get ``refused``, a list with True for these and False for the others.
    Raises GuardNotEffective for images in a form that nobody knows how to blank.
    """
    if isinstance(output, tuple):
        return (_blanked(output[0], refused), *output[1:]) if refused else output
    if refused:
        output.images = _blanked(output.images, refused)
    output.refused = [image in refused for image in range(len(output.images))]
    return output


def _blanked(images: Any, refused: Collection[int]) -> Any:
    if isinstance(images, np.ndarray):
        images = images.copy()
        images[list(refused)] = 0
        return images
    if isinstance(images, torch.Tensor):
        images = images.clone()
        images[list(refused)] = 0
        return images
    if isinstance(images, list) and all(isinstance(image, Image.Image) for image in images):
        return [Image.new(image.mode, image.size) if place in refused else image for place, image in enumerate(images)]
    kinds = sorted({type(image).__name__ for image in images} if isinstance(images, list) else {type(images).__name__})
    raise GuardNotEffective(
        f"an image is refused, and the pipeline gave {', '.join(kinds)}, which cannot be blanked (expected PIL images, "
        "an array or a tensor); images are withheld. Attach the guard with refuse='error', or use output_type='pil'."
    )
