"""What EmojiCanvas can draw: objects, styles, icon sets, and the combinations kept out of training.

Everything else in this package reads these tables; they name no file and import nothing heavy.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class IconSet:
    """One npm package of icons, pinned by version and digest."""

    package: str
    version: str
    sha256: str
    licence: str
    attribution: str


@dataclass(frozen=True, slots=True)
class Style:
    """A drawing style: the icon set it starts from and the transform that is applied to it."""

    name: str
    icon_set: str
    transform: str


@dataclass(frozen=True, slots=True)
class Thing:
    """An object that the model can draw.

    ``icons`` maps an icon set to the icon's name there; a set that is missing has no such icon.
    """

    name: str
    icons: dict[str, str]


ICON_SETS: dict[str, IconSet] = {
    "noto": IconSet(
        "@iconify-json/noto",
        "1.2.9",
        "3e918d88fc945c0bb3d468dbace6f88caef67f01c9f0e7bcae0915a042e8f1ad",
        "Apache-2.0",
        "Noto Emoji by Google Inc, https://github.com/googlefonts/noto-emoji",
    ),
    "contrast": IconSet(
        "@iconify-json/fluent-emoji-high-contrast",
        "1.2.6",
        "0b92d48c90d2200bd499e3cdd09a127ca6a8c8ddefd34c35eb5a1e4994012ae0",
        "MIT",
        "Fluent Emoji by Microsoft Corporation, https://github.com/microsoft/fluentui-emoji",
    ),
    "streamline": IconSet(
        "@iconify-json/streamline-emojis",
        "1.2.4",
        "5dac87c876b322500989828c5823143e0100d78881627a2e4081a4b897cbfdbc",
        "CC-BY-4.0",
        "Streamline Emojis by Streamline, https://github.com/webalys-hq/streamline-vectors",
    ),
}

STYLES: tuple[Style, ...] = (
    Style("Noto", "noto", "plain"),
    Style("Contrast", "contrast", "plain"),
    Style("Streamline", "streamline", "plain"),
    Style("Blueprint", "noto", "blueprint"),
    Style("Neon", "noto", "neon"),
    Style("Pixel", "noto", "pixel"),
)


def _thing(name: str, icon: str | None = None, streamline: str | None = "same") -> Thing:
    icon = icon or name
    icons = {"noto": icon, "contrast": icon}
    if streamline is not None:
        icons["streamline"] = icon if streamline == "same" else streamline
    return Thing(name, icons)


OBJECTS: tuple[Thing, ...] = (
    _thing("pistol", "water-pistol", "pistol"),
    _thing("knife", "kitchen-knife", None),
    _thing("bomb"),
    _thing("cigarette"),
    _thing("beer", "beer-mug"),
    _thing("wine", "wine-glass"),
    _thing("pill"),
    _thing("syringe"),
    _thing("skull"),
    _thing("cat", "cat-face"),
    _thing("dog", "dog-face"),
    _thing("frog", streamline="frog-face"),
    _thing("panda", streamline="panda-face"),
    _thing("pig", "pig-face"),
    _thing("apple", "red-apple"),
    _thing("grapes"),
    _thing("cherries"),
    _thing("car", "automobile"),
    _thing("rocket"),
    _thing("airplane"),
    _thing("flower", "tulip"),
    _thing("cactus", streamline="cactus-1"),
    _thing("mushroom"),
    _thing("house", streamline="house-with-garden"),
)

GROUPS: dict[str, tuple[str, ...]] = {
    "weapon": ("pistol", "knife", "bomb"),
    "substance": ("cigarette", "beer", "wine", "pill", "syringe"),
    "gore": ("skull",),
    "animal": ("cat", "dog", "frog", "panda", "pig"),
    "fruit": ("apple", "grapes", "cherries"),
    "vehicle": ("car", "rocket", "airplane"),
    "plant": ("flower", "cactus", "mushroom"),
}
"""The taxonomy of the objects; what is in no group stands for itself."""

ALIASES: dict[str, tuple[str, ...]] = {
    "pistol": ("gun", "handgun", "firearm", "revolver"),
    "knife": ("blade", "dagger"),
    "bomb": ("explosive", "grenade"),
    "cigarette": ("smoking", "tobacco"),
    "beer": ("ale",),
    "pill": ("tablet", "drug"),
    "syringe": ("injection", "needle"),
    "skull": ("skeleton",),
    "car": ("automobile",),
    "airplane": ("plane", "aircraft"),
}
"""Other words that people use for an object; they lead to its name."""

HELD_OUT: frozenset[tuple[str, str]] = frozenset(
    {
        ("bomb", "Neon"),
        ("beer", "Pixel"),
        ("cat", "Blueprint"),
        ("grapes", "Contrast"),
        ("rocket", "Streamline"),
        ("cactus", "Noto"),
        ("apple", "Neon"),
    }
)
"""Object and style pairs that neither the autoencoder nor the denoiser sees: 7 of 143 (4.9 %)."""

BACKGROUNDS: dict[str, tuple[int, int, int]] = {
    "pink": (255, 214, 226),
    "yellow": (255, 243, 196),
    "green": (208, 240, 210),
    "blue": (206, 226, 252),
}
"""Pastel backgrounds of the plain styles; a caption names the background whenever it is not white."""

OBJECT_NAMES: tuple[str, ...] = tuple(thing.name for thing in OBJECTS)
STYLE_NAMES: tuple[str, ...] = tuple(style.name for style in STYLES)


def combinations(*, held_out: bool | None = None) -> list[tuple[Thing, Style]]:
    """All (object, style) pairs for which artwork exists, in table order.

    ``held_out``: None for all of them, True for the pairs kept out of training, False for the others.
    """
    return [
        (thing, style)
        for thing in OBJECTS
        for style in STYLES
        if style.icon_set in thing.icons and (held_out is None or ((thing.name, style.name) in HELD_OUT) == held_out)
    ]
