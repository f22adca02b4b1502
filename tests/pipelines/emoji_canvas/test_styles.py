"""Each style is one deterministic transform, and the styles look different."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from PIL import Image

from saeuron_guard.pipelines.emoji_canvas.artwork import BASE_SIZE
from saeuron_guard.pipelines.emoji_canvas.styles import SIZE, TRANSFORMS, Colour, background_for
from tests.pipelines.emoji_canvas.drawn_icons import GREEN, RED, draw_icon

GROUNDS: dict[str, tuple[tuple[float, float], ...]] = {
    "plain": ((247, 255),) * 3,
    "blueprint": ((10, 42), (44, 88), (138, 194)),
    "neon": ((1, 27), (1, 17), (8, 44)),
    "pixel": ((122, 162), (152, 184), (136, 176)),
}
"""The lowest and the highest value of each channel of a style's background."""


def rng(seed: int = 0) -> np.random.Generator:
    """A generator of its own for every call."""
    return np.random.default_rng(seed)


def drawn(transform: str, icon: Image.Image, background: Colour) -> np.ndarray:
    """The transform's picture as an array of integers."""
    return np.asarray(TRANSFORMS[transform](icon, background)).astype(int)


def difference(first: np.ndarray, second: np.ndarray) -> float:
    """Mean absolute difference in grey levels."""
    return float(np.abs(first - second).mean())


@pytest.mark.parametrize("transform", list(TRANSFORMS))
def test_a_transform_is_a_function_of_its_arguments(transform: str) -> None:
    """The same icon and background give the same bytes and leave the icon alone; another icon gives others."""
    icon, background = draw_icon(), background_for(transform, rng())
    before = icon.tobytes()
    first, second = (TRANSFORMS[transform](icon, background) for _ in range(2))
    assert (first.mode, first.size) == ("RGB", (SIZE, SIZE))
    assert first.tobytes() == second.tobytes()
    assert icon.tobytes() == before
    assert TRANSFORMS[transform](draw_icon(sides=3), background).tobytes() != first.tobytes()


def test_styles_differ_visibly() -> None:
    """Any two transforms of one icon differ by 30 grey levels or more; two backgrounds of one transform by far less."""
    icon = draw_icon()
    pictures = {name: drawn(name, icon, background_for(name, rng())) for name in TRANSFORMS}
    between = [difference(pictures[a], pictures[b]) for a, b in itertools.combinations(TRANSFORMS, 2)]
    within = [difference(pictures[name], drawn(name, icon, background_for(name, rng(1)))) for name in TRANSFORMS]
    assert min(between) > 30
    assert max(within) < 20


@pytest.mark.parametrize("transform", list(TRANSFORMS))
def test_nothing_drawn_is_the_bare_background(transform: str) -> None:
    """A transparent icon leaves the background alone, everywhere; an icon does not."""
    background = (40.0, 90.0, 160.0)
    empty = Image.new("RGBA", (BASE_SIZE, BASE_SIZE))
    assert (drawn(transform, empty, background) == background).all()
    assert not (drawn(transform, draw_icon(), background) == background).all()


def test_plain_keeps_the_artwork() -> None:
    """Inside the shapes the picture has the artwork's colours, in the corners the background's."""
    picture = drawn("plain", draw_icon(), (206.0, 226.0, 252.0))
    assert tuple(picture[32, 32]) == GREEN[:3]
    assert tuple(picture[32, 20]) == RED[:3]
    assert tuple(picture[0, 0]) == tuple(picture[-1, -1]) == (206, 226, 252)


def test_blueprint_draws_bright_lines_where_the_artwork_changes() -> None:
    """The outline is near white, the inside stays close to the paper, whatever colour the artwork has there."""
    paper = (26.0, 66.0, 166.0)
    picture = drawn("blueprint", draw_icon(), paper)
    outline = picture[32].max(axis=0)
    assert (outline > (200, 210, 220)).all()
    for row, column in ((32, 32), (32, 20)):
        assert np.abs(picture[row, column] - paper).max() < 45
    assert tuple(picture[0, 0]) == paper


def test_neon_glows_beyond_the_artwork_in_its_hue() -> None:
    """Just outside of a red square the dark ground shines red; blueprint leaves its paper alone there."""
    ground = (14.0, 9.0, 26.0)
    outside = (32, 15)
    icon = draw_icon((RED, RED))
    assert not np.asarray(icon)[outside[0] * 3, outside[1] * 3 : outside[1] * 3 + 3, 3].any()
    red, green, blue = drawn("neon", icon, ground)[outside] - ground
    assert red > 10
    assert red > 2 * max(green, blue)
    assert np.abs(drawn("blueprint", icon, ground)[outside] - ground).max() <= 1


def test_neon_draws_grey_artwork_in_cyan() -> None:
    """Artwork without a hue glows, too: in cyan."""
    grey = (128, 128, 128, 255)
    red, green, blue = drawn("neon", draw_icon((grey, grey)), (0.0, 0.0, 0.0))[32, 15]
    assert min(green, blue) > 2 * red
    assert blue > 10


def test_pixel_is_a_mosaic_of_few_colours() -> None:
    """Blocks of 4 x 4 have one colour, on artwork of multiples of 51; the plain picture is no such mosaic."""

    def blocks(picture: np.ndarray) -> np.ndarray:
        return picture.reshape(16, 4, 16, 4, 3).transpose(0, 2, 1, 3, 4).reshape(256, 16, 3)

    ground = (142.0, 168.0, 156.0)
    mosaic = blocks(drawn("pixel", draw_icon(), ground))
    assert (mosaic == mosaic[:, :1]).all()
    on_artwork = mosaic[:, 0][(mosaic[:, 0] != ground).any(axis=1)]
    assert 20 < len(on_artwork) < 236
    assert (on_artwork % 51 == 0).all()
    plain = blocks(drawn("plain", draw_icon(), ground))
    assert not (plain == plain[:, :1]).all()


@pytest.mark.parametrize("transform", list(GROUNDS))
def test_backgrounds_vary_in_shade_within_a_style(transform: str) -> None:
    """A seed gives one colour, other seeds others, and all lie in the style's own range and use most of it."""
    assert background_for(transform, rng(3)) == background_for(transform, rng(3))
    colours = np.array([background_for(transform, rng(seed)) for seed in range(200)])
    low, high = np.array(GROUNDS[transform]).T
    assert len(np.unique(colours, axis=0)) == 200
    assert (colours >= low).all()
    assert (colours <= high).all()
    assert (np.ptp(colours, axis=0) > 0.9 * (high - low)).all()


def test_every_transform_has_its_own_kind_of_background() -> None:
    """The ranges are disjoint in some channel for any two transforms, so the ground alone gives the style away."""
    assert set(GROUNDS) == set(TRANSFORMS)
    for first, second in itertools.combinations(GROUNDS.values(), 2):
        assert any(a[1] < b[0] or b[1] < a[0] for a, b in zip(first, second, strict=True))
