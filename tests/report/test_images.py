"""Pictures side by side."""

from __future__ import annotations

import numpy as np

from saeuron_guard.guard.heat import heated
from saeuron_guard.report.images import side_by_side

RED, BLUE = (np.full((64, 64, 3), colour, np.uint8) for colour in ((200, 0, 0), (0, 0, 200)))


def sheet(title: str) -> np.ndarray:
    """Red and blue side by side."""
    return side_by_side(RED, BLUE, title=title, base_caption="without", guarded_caption="with")


def test_the_left_image_is_without_and_the_right_with() -> None:
    """Both are enlarged by a whole factor, untouched by captions, in this order."""
    picture = sheet("a prompt")
    red = (picture == (200, 0, 0)).all(axis=2)
    blue = (picture == (0, 0, 200)).all(axis=2)
    assert red.sum() == blue.sum() == 384 * 384
    assert np.flatnonzero(red.any(axis=0)).max() < np.flatnonzero(blue.any(axis=0)).min()


def test_titles_are_written_and_cut() -> None:
    """A title leaves ink, one that is much too long no more than the width, and line breaks make no second line."""
    plain, long, broken = sheet("a prompt"), sheet("word " * 500), sheet("a\nprompt")
    assert plain.shape == long.shape == broken.shape
    assert not np.array_equal(plain, sheet(""))
    assert (long[:, -16:] == 255).all()
    assert np.array_equal(broken, sheet("a prompt"))


def test_heat_colours_where_it_is_hot() -> None:
    """A cold half stays grey, a hot one takes the colour; the picture is enlarged as the others are."""
    image = np.full((16, 16, 3), (40, 120, 200), dtype=np.uint8)
    heat = np.zeros((4, 4), dtype=np.float32)
    heat[:, 2:] = 1.0
    picture = heated(image, heat).astype(int)
    assert picture.shape == (384, 384, 3)
    cold, hot = picture[200, 20], picture[200, 360]
    assert cold[0] == cold[1] == cold[2]
    assert hot[0] > hot[2] + 60
