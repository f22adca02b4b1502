"""The tables say what EmojiCanvas can draw, and from which pinned artwork."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from saeuron_guard.pipelines.emoji_canvas import world
from saeuron_guard.pipelines.emoji_canvas.styles import TRANSFORMS
from saeuron_guard.pipelines.emoji_canvas.world import (
    BACKGROUNDS,
    HELD_OUT,
    ICON_SETS,
    OBJECT_NAMES,
    OBJECTS,
    STYLE_NAMES,
    STYLES,
    combinations,
)

OPEN_LICENCES = {"Apache-2.0", "MIT", "CC-BY-4.0"}


def names(*, held_out: bool | None = None) -> list[tuple[str, str]]:
    """The pairs of ``combinations`` by name."""
    return [(thing.name, style.name) for thing, style in combinations(held_out=held_out)]


def test_objects_styles_and_pairs_are_as_many_as_promised() -> None:
    """24 objects in 6 styles make 143 different pairs: all but the one for which no artwork exists."""
    assert (len(set(OBJECT_NAMES)), len(OBJECT_NAMES)) == (24, 24)
    assert (len(set(STYLE_NAMES)), len(STYLE_NAMES)) == (6, 6)
    every = {(thing, style) for thing in OBJECT_NAMES for style in STYLE_NAMES}
    assert len(names()) == len(set(names())) == 143
    assert every - set(names()) == {("knife", "Streamline")}


def test_held_out_pairs_are_seven_and_the_rest_is_trained() -> None:
    """Asking for held-out and for trained pairs splits all pairs in two, in table order."""
    assert len(HELD_OUT) == 7
    assert set(names(held_out=True)) == HELD_OUT
    assert len(names(held_out=False)) == 136
    assert [pair for pair in names() if pair not in HELD_OUT] == names(held_out=False)


def test_held_out_objects_and_styles_are_learnt_from_other_pairs() -> None:
    """Each part of a held-out pair stays in training often: 3 styles or more an object, 20 objects or more a style."""
    trained = names(held_out=False)
    by_object = Counter(thing for thing, _ in trained)
    by_style = Counter(style for _, style in trained)
    for thing, style in HELD_OUT:
        assert by_object[thing] >= 3
        assert by_style[style] >= 20


def test_a_missing_icon_takes_its_pair_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """An object without an icon in a set is not drawn in the styles of that set; with it, it is."""
    complete = world.Thing("thing", dict.fromkeys(ICON_SETS, "icon"))
    without = world.Thing("thing", {"contrast": "icon", "streamline": "icon"})
    monkeypatch.setattr(world, "OBJECTS", (complete,))
    assert [style for _, style in names()] == list(STYLE_NAMES)
    monkeypatch.setattr(world, "OBJECTS", (without,))
    assert [style for _, style in names()] == ["Contrast", "Streamline"]


@pytest.mark.parametrize("name", list(ICON_SETS))
def test_icon_sets_are_pinned(name: str) -> None:
    """Each icon set names one package in one exact version, its SHA-256, an open licence and the author's page."""
    icon_set = ICON_SETS[name]
    assert re.fullmatch(r"@[a-z-]+/[a-z-]+", icon_set.package)
    assert re.fullmatch(r"\d+\.\d+\.\d+", icon_set.version)
    assert re.fullmatch(r"[0-9a-f]{64}", icon_set.sha256)
    assert icon_set.licence in OPEN_LICENCES
    assert re.fullmatch(r".+ by .+, https://\S+", icon_set.attribution)


def test_icon_sets_are_different_packages() -> None:
    """No digest and no package is pinned twice: a digest copied from another line would show."""
    assert len({icon_set.sha256 for icon_set in ICON_SETS.values()}) == len(ICON_SETS) == 3
    assert len({icon_set.package for icon_set in ICON_SETS.values()}) == 3


def test_styles_and_icons_refer_to_what_exists() -> None:
    """Every style's icon set and transform exist and no two styles are the same; no icon lies in an unknown set."""
    assert {style.icon_set for style in STYLES} == set(ICON_SETS)
    assert {style.transform for style in STYLES} == set(TRANSFORMS)
    assert len({(style.icon_set, style.transform) for style in STYLES}) == len(STYLES)
    assert {icon_set for thing in OBJECTS for icon_set in thing.icons} == set(ICON_SETS)
    for icon_set in ICON_SETS:
        icons = [thing.icons[icon_set] for thing in OBJECTS if icon_set in thing.icons]
        assert len(set(icons)) == len(icons)


def test_named_backgrounds_differ_from_each_other_and_from_white() -> None:
    """Any two named backgrounds, and any one and white, lie 20 grey levels or more apart in some channel."""
    colours = [*BACKGROUNDS.values(), (255, 255, 255)]
    apart = [
        max(abs(a - b) for a, b in zip(first, second, strict=True))
        for number, first in enumerate(colours)
        for second in colours[:number]
    ]
    assert len(apart) == 10
    assert min(apart) >= 20
