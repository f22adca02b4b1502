"""Renders the artwork in many small variations: what the autoencoder, denoiser and judges learn from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from saeuron_guard.pipelines.emoji_canvas.artwork import BASE_SIZE, base_render, fetch_icons
from saeuron_guard.pipelines.emoji_canvas.styles import SIZE, TRANSFORMS, background_for
from saeuron_guard.pipelines.emoji_canvas.world import BACKGROUNDS, OBJECT_NAMES, STYLE_NAMES, combinations


@dataclass(frozen=True, slots=True)
class Jitter:
    """How far a variant may stray from the base render."""

    scale: tuple[float, float] = (0.84, 0.96)
    rotation: float = 5.0
    shift: float = 5.0
    named_background: float = 0.05


PIPELINE_JITTER = Jitter()
JUDGE_JITTER = Jitter(scale=(0.72, 1.0), rotation=10.0, shift=12.0, named_background=0.15)


@dataclass(frozen=True, slots=True)
class Renders:
    """Pictures with their labels; row i of every array belongs to picture i."""

    pictures: NDArray[np.uint8]
    objects: NDArray[np.int64]
    styles: NDArray[np.int64]
    backgrounds: NDArray[np.int64]

    def save(self, path: Path) -> None:
        """Write the arrays to ``path`` (npz)."""
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(
            path, pictures=self.pictures, objects=self.objects, styles=self.styles, backgrounds=self.backgrounds
        )

    @classmethod
    def load(cls, path: Path) -> Renders:
        """Read what ``save`` wrote."""
        with np.load(path, allow_pickle=False) as stored:
            return cls(stored["pictures"], stored["objects"], stored["styles"], stored["backgrounds"])


def render_variants(artwork: Path, *, variants: int, seed: int, jitter: Jitter, held_out: bool | None) -> Renders:
    """Render every wanted (object, style) pair ``variants`` times.

    A picture depends on ``seed``, its pair and its number alone, so that more variants never change earlier ones.
    ``held_out`` selects pairs as in ``world.combinations``; background -1 means none was named.
    """
    icons = fetch_icons(artwork)
    pictures, objects, styles, backgrounds = [], [], [], []
    for thing, style in combinations(held_out=held_out):
        base = base_render(icons, thing, style)
        label = (OBJECT_NAMES.index(thing.name), STYLE_NAMES.index(style.name))
        for number in range(variants):
            rng = np.random.default_rng((seed, *label, number))
            named = -1
            background = background_for(style.transform, rng)
            if style.transform == "plain" and rng.random() < jitter.named_background:
                named = int(rng.integers(len(BACKGROUNDS)))
                background = list(BACKGROUNDS.values())[named]
            picture = TRANSFORMS[style.transform](_place(base, jitter, rng), background)
            pictures.append(np.asarray(picture))
            objects.append(label[0])
            styles.append(label[1])
            backgrounds.append(named)
    return Renders(np.stack(pictures), np.array(objects), np.array(styles), np.array(backgrounds, dtype=np.int64))


def _place(icon: Image.Image, jitter: Jitter, rng: np.random.Generator) -> Image.Image:
    """Scale, turn and shift the icon on its canvas; ``shift`` is in base pixels."""
    scale = rng.uniform(*jitter.scale)
    angle = np.deg2rad(rng.uniform(-jitter.rotation, jitter.rotation))
    shift = rng.uniform(-jitter.shift, jitter.shift, 2)
    cos, sin = np.cos(angle) / scale, np.sin(angle) / scale
    centre = BASE_SIZE / 2
    moved_x, moved_y = centre + shift[0], centre + shift[1]
    matrix = (
        cos, sin, centre - cos * moved_x - sin * moved_y,
        -sin, cos, centre + sin * moved_x - cos * moved_y,
    )  # fmt: skip
    premultiplied = icon.convert("RGBa")
    return premultiplied.transform(icon.size, Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC).convert("RGBA")


def contact_sheet(pictures: NDArray[np.uint8], columns: int, scale: int = 1) -> Image.Image:
    """Lay pictures (n, height, width, 3) out in rows of ``columns``."""
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (columns * SIZE, rows * SIZE), (255, 255, 255))
    for index, picture in enumerate(pictures):
        sheet.paste(Image.fromarray(picture), ((index % columns) * SIZE, (index // columns) * SIZE))
    return sheet.resize((sheet.width * scale, sheet.height * scale), Image.Resampling.NEAREST)
