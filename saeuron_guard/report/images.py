"""Images as files: the pairs of a verification, and one pair side by side."""

from __future__ import annotations

from bisect import bisect_right
from math import ceil
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from saeuron_guard.errors import ArtefactError
from saeuron_guard.guard.heat import enlarged
from saeuron_guard.verify.result import VerifyResult

_MARGIN = 16
_LINE = 24
_INK, _QUIET, _PAPER = (27, 31, 36), (86, 93, 102), (255, 255, 255)


def write_image(image: NDArray[np.uint8], path: Path) -> None:
    """Write uint8 [height, width, 3] as PNG; raises ArtefactError when that cannot be."""
    try:
        Image.fromarray(image).save(path, format="PNG")
    except OSError as error:
        raise ArtefactError(f"{path}: cannot be written: {error}") from error


def write_pairs(result: VerifyResult, folder: Path) -> None:
    """Write ``0000-without.png`` and ``0000-with.png`` and so on, numbered as ``pairs`` in the JSON."""
    if result.images is None:
        return
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(len(result.pairs)):
        write_image(result.images.base[index], folder / f"{index:04d}-without.png")
        write_image(result.images.guarded[index], folder / f"{index:04d}-with.png")


def side_by_side(
    base: NDArray[np.uint8], guarded: NDArray[np.uint8], *, title: str, base_caption: str, guarded_caption: str
) -> NDArray[np.uint8]:
    """One picture of two images of equal size, enlarged, under a title and with captions; uint8 [h, w, 3].

    Lines that are too long for the picture are cut.
    """
    left, right = enlarged(base), enlarged(guarded)
    width, height = left.size
    sheet = Image.new("RGB", (2 * width + 3 * _MARGIN, height + 2 * _LINE + 3 * _MARGIN), _PAPER)
    draw = ImageDraw.Draw(sheet)
    top = 2 * _MARGIN + _LINE
    _write_line(draw, (_MARGIN, _MARGIN), title, sheet.width - 2 * _MARGIN, _INK)
    for picture, caption, start in ((left, base_caption, _MARGIN), (right, guarded_caption, 2 * _MARGIN + width)):
        sheet.paste(picture, (start, top))
        _write_line(draw, (start, top + height + _MARGIN // 2), caption, width, _QUIET)
    return np.asarray(sheet)


def _write_line(
    draw: ImageDraw.ImageDraw, place: tuple[int, int], text: str, width: int, colour: tuple[int, int, int]
) -> None:
    font = ImageFont.load_default(size=16)
    # Control characters would break the line or the measuring of it.
    line = "".join(character if character.isprintable() else " " for character in text)
    if draw.textlength(line, font=font) > width:
        ends = range(len(line))
        fitting = bisect_right(ends, width, key=lambda end: ceil(draw.textlength(line[:end] + "...", font=font)))
        line = line[: max(fitting - 1, 0)] + "..."
    draw.text(place, line, fill=colour, font=font)
