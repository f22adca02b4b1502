"""The deterministic transforms that turn an RGBA icon into a picture of one style.

Each takes the placed icon (RGBA, BASE_SIZE square), the numbers drawn for this variant, and returns
an RGB picture of ``SIZE`` x ``SIZE`` pixels.
Backgrounds vary in shade within a style, so that a style judge cannot live on one colour.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIZE = 64
"""Pixels of a picture's side."""

Colour = tuple[float, float, float]
Floats = NDArray[np.float32]


def plain(icon: Image.Image, background: Colour) -> Image.Image:
    """The icon as its artists drew it, on a flat background."""
    return _over(icon, background).resize((SIZE, SIZE), Image.Resampling.BOX)


def blueprint(icon: Image.Image, background: Colour) -> Image.Image:
    """Near-white edge lines with a faint fill on blue paper."""
    edges = _edges(icon, width=2.2)[..., None]
    alpha = _alpha(icon)[..., None]
    paper = np.asarray(background, dtype=np.float32)
    line = np.asarray((235, 244, 255), dtype=np.float32)
    picture = paper + 0.14 * alpha * (line - paper)
    picture = picture + edges * (line - picture)
    return _shrink(picture)


def neon(icon: Image.Image, background: Colour) -> Image.Image:
    """Edges in saturated hues of the artwork with a wide glow on near-black."""
    edges = _edges(icon, width=2.0)
    hue = _saturated(icon)
    glow = _blur(edges, 9.0)[..., None]
    halo = _blur(edges, 3.5)[..., None]
    core = _blur(edges, 0.8)[..., None]
    light = hue * (0.75 * glow + 0.55 * halo) + core * (0.65 * hue + 90.0)
    return _shrink(np.asarray(background, dtype=np.float32) + light)


def pixel(icon: Image.Image, background: Colour) -> Image.Image:
    """A 16 x 16 mosaic with colours rounded to multiples of 51 on a muted ground."""
    small = np.asarray(_over(icon, background).resize((16, 16), Image.Resampling.BOX), dtype=np.float32)
    cover = np.asarray(icon.getchannel("A").resize((16, 16), Image.Resampling.BOX), dtype=np.float32)[..., None] / 255
    rounded = np.round(small / 51.0) * 51.0
    mosaic = np.where(cover > 0.25, rounded, np.asarray(background, dtype=np.float32))
    return _image(mosaic).resize((SIZE, SIZE), Image.Resampling.NEAREST)


TRANSFORMS: dict[str, Callable[[Image.Image, Colour], Image.Image]] = {
    "plain": plain,
    "blueprint": blueprint,
    "neon": neon,
    "pixel": pixel,
}


def background_for(transform: str, rng: np.random.Generator) -> Colour:
    """Draw a background colour of the kind that ``transform`` stands on."""
    if transform == "blueprint":
        base, spread = np.array((26.0, 66.0, 166.0)), np.array((16.0, 22.0, 28.0))
    elif transform == "neon":
        base, spread = np.array((14.0, 9.0, 26.0)), np.array((13.0, 8.0, 18.0))
    elif transform == "pixel":
        base, spread = np.array((142.0, 168.0, 156.0)), np.array((20.0, 16.0, 20.0))
    else:
        shade = float(rng.uniform(247, 255))
        return (shade, shade, shade)
    red, green, blue = base + rng.uniform(-1, 1, 3) * spread
    return (float(red), float(green), float(blue))


def _over(icon: Image.Image, background: Colour) -> Image.Image:
    red, green, blue = (round(channel) for channel in background)
    ground = Image.new("RGBA", icon.size, (red, green, blue, 255))
    return Image.alpha_composite(ground, icon).convert("RGB")


def _alpha(icon: Image.Image) -> Floats:
    return np.asarray(icon.getchannel("A"), dtype=np.float32) / 255.0


def _blur(values: Floats, radius: float) -> Floats:
    """Gaussian blur in floating point, so that faint glows are not rounded away; borders repeat their edge."""
    reach = int(3 * radius + 1)
    taps = np.exp(-0.5 * (np.arange(-reach, reach + 1) / radius) ** 2)
    taps /= taps.sum()
    for axis in (0, 1):
        padding = [(reach, reach) if dimension == axis else (0, 0) for dimension in (0, 1)]
        padded = np.pad(values, padding, mode="edge")
        values = np.apply_along_axis(lambda line: np.convolve(line, taps, mode="valid"), axis, padded)
    return values.astype(np.float32)


def _edges(icon: Image.Image, width: float) -> Floats:
    """Edge strength in [0, 1] of the artwork's colours and outline, about ``width`` pixels wide."""
    colours = np.asarray(_over(icon, (255, 255, 255)), dtype=np.float32) / 255.0
    layers = [_blur(colours[..., channel], 1.2) for channel in range(3)] + [_blur(_alpha(icon), 1.2)]
    strength = np.zeros(layers[0].shape, dtype=np.float32)
    for layer in layers:
        down, right = np.gradient(layer)
        strength = np.maximum(strength, np.hypot(down, right))
    lines = np.clip((strength - 0.035) / 0.06, 0, 1)
    return np.clip(_blur(lines, width / 2) * 1.35, 0, 1)


def _saturated(icon: Image.Image) -> Floats:
    """The artwork's local hue at full saturation and value, (height, width, 3) in [0, 255]; grey becomes cyan."""
    colours = np.asarray(icon, dtype=np.float32)[..., :3] / 255.0
    alpha = _alpha(icon)
    weight = _blur(alpha, 4.0)[..., None] + 1e-3
    local = np.stack([_blur(colours[..., c] * alpha, 4.0) for c in range(3)], axis=-1) / weight
    low = local.min(axis=-1, keepdims=True)
    spread = local.max(axis=-1, keepdims=True) - low
    pure = (local - low) / np.maximum(spread, 1e-3)
    cyan = np.asarray((0.1, 0.9, 1.0), dtype=np.float32)
    grey = np.clip(1.0 - spread / 0.15, 0, 1)
    return (255.0 * (pure * (1 - grey) + cyan * grey)).astype(np.float32)


def _shrink(picture: Floats) -> Image.Image:
    return _image(picture).resize((SIZE, SIZE), Image.Resampling.BOX)


def _image(picture: Floats) -> Image.Image:
    return Image.fromarray(np.clip(np.round(picture), 0, 255).astype(np.uint8))
