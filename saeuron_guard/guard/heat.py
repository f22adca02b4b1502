"""Heat maps as pictures: where in an image the features of a concept fired. Without torch."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_SIDE = 384
"""Least width of a picture; smaller images are enlarged by a whole factor."""
_HEAT, _HEAT_OPACITY = (220, 60, 0), 0.6


def heated(image: NDArray[np.uint8], heat: NDArray[np.float32]) -> NDArray[np.uint8]:
    """``image`` in grey, enlarged, with the heat map (height, width), 0 to 1, laid over it in colour; uint8 [h, w, 3].

    Where nothing fired the picture is grey; the more often it did, the stronger the colour.
    """
    picture = enlarged(image)
    grey = np.asarray(picture.convert("L").convert("RGB"), dtype=np.float32)
    spread = Image.fromarray(np.clip(heat, 0, 1).astype(np.float32)).resize(picture.size, Image.Resampling.BILINEAR)
    share = _HEAT_OPACITY * np.sqrt(np.clip(np.asarray(spread), 0, 1))[..., None]
    return np.asarray((1 - share) * grey + share * np.asarray(_HEAT), dtype=np.uint8)


def enlarged(image: NDArray[np.uint8]) -> Image.Image:
    """uint8 [h, w, 3] as a picture that is large enough to look at."""
    picture = Image.fromarray(image)
    factor = max(1, -(-_SIDE // picture.width))
    return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.BICUBIC)
