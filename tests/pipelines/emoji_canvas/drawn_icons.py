"""Icons drawn on the spot, for tests that need artwork: a shape in two colours on a transparent ground."""

from __future__ import annotations

from typing import Any

from PIL import Image, ImageDraw

from saeuron_guard.pipelines.emoji_canvas.artwork import BASE_SIZE
from saeuron_guard.pipelines.emoji_canvas.world import ICON_SETS, OBJECT_NAMES, Style, Thing

RED, GREEN = (214, 40, 40, 255), (20, 150, 70, 255)


def draw_icon(
    colours: tuple[tuple[int, int, int, int], tuple[int, int, int, int]] = (RED, GREEN), sides: int = 4
) -> Image.Image:
    """A regular polygon in a circle of radius 56 about the middle, with a smaller disc of another colour on it.

    Four sides make an upright square, 80 pixels wide.
    """
    icon = Image.new("RGBA", (BASE_SIZE, BASE_SIZE))
    pen = ImageDraw.Draw(icon)
    middle = BASE_SIZE / 2
    pen.regular_polygon((middle, middle, 56), sides, fill=colours[0])
    pen.ellipse((middle - 22, middle - 22, middle + 22, middle + 22), fill=colours[1])
    return icon


def fake_base_render(icons: dict[str, dict[str, Any]], thing: Thing, style: Style) -> Image.Image:
    """In place of ``artwork.base_render``: every object has its own shape and colour, every icon set its own disc."""
    number = OBJECT_NAMES.index(thing.name)
    disc = list(ICON_SETS).index(style.icon_set) * 100
    outer = (40 + number * 37 % 200, 40 + number * 91 % 200, 40 + number * 53 % 200, 255)
    return draw_icon((outer, (disc, 255 - disc, 128, 255)), sides=3 + number % 5)
