"""Each image has its own report: checked against a recount, and against the same image drawn alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from saeuron_guard.guard.guard import Guard
from saeuron_guard.guard.images import ConceptInImage, ImageReport
from tests.guard.test_report import record
from tests.tiny import HOOKPOINTS, draw

THRESHOLD = 1.5


def one(pipe: Any, guard: Guard, prompt: str, **settings: Any) -> ImageReport:
    """The report of a picture drawn by itself."""
    draw(pipe, prompt=prompt, **settings)
    (report,) = guard.report().images
    return report


@pytest.mark.parametrize("guidance", [1.0, 5.0])
@pytest.mark.parametrize("size", [{}, {"height": 32, "width": 16}], ids=["square", "tall"])
def test_figures_are_those_of_a_recount(
    pipe: Any, attach: Callable[..., Guard], guidance: float, size: dict[str, int]
) -> None:
    """Timesteps, share, peak and the heat at every position, of each image of a batch."""
    prompts = ["a pistol", "a cat"]
    latents = record(pipe, steps=4, guidance=guidance, prompt=prompts, **size)
    guard = attach(strength=0.0, threshold=THRESHOLD)
    draw(pipe, steps=4, guidance=guidance, prompt=prompts, **size)
    images = guard.report().images
    assert [report.index for report in images] == [0, 1]
    selected = torch.stack(latents[HOOKPOINTS[0]])[..., 0:8]  # (calls, rows, pos, features)
    for report in images:
        own = selected[:, report.index :: 2]
        fires = (own > THRESHOLD).any(-1)
        found = report.concept("pistol")
        assert report.calls == 4
        assert len(found.timesteps) == int(fires.flatten(1).any(1).sum())
        assert list(found.timesteps) == sorted(found.timesteps, reverse=True)
        by_branch = fires.float().mean(dim=(0, 2))
        assert found.positions == pytest.approx(float(by_branch.max()))
        assert found.peak == pytest.approx(float(own.max()) / THRESHOLD, rel=1e-4)
        assert found.heat is not None
        assert found.heat.reshape(-1) == pytest.approx(fires.float().mean(dim=(0, 1)).numpy())
        height, width = size.get("height", 16), size.get("width", 16)
        assert found.heat.shape[0] * width == found.heat.shape[1] * height


def test_an_image_of_a_batch_is_told_as_if_it_were_alone(pipe: Any, attach: Callable[..., Guard]) -> None:
    """Rows do not mix: the second image's findings are its own. Those of an earlier pipeline call are gone."""
    guard = attach(strength=0.0, threshold=THRESHOLD)
    noise = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    draw(pipe, prompt=["a pistol", "a cat"], latents=noise)
    first, second = guard.report().images
    alone = one(pipe, guard, "a cat", latents=noise[1:])
    for theirs, ours in zip(second.concepts, alone.concepts, strict=True):
        assert theirs.concept == ours.concept
        assert theirs.timesteps == ours.timesteps
        assert theirs.positions == pytest.approx(ours.positions, abs=0.01)
        assert theirs.peak == pytest.approx(ours.peak, rel=1e-3)
    assert first.concept("pistol").positions != second.concept("pistol").positions


def test_several_images_of_one_prompt(pipe: Any, attach: Callable[..., Guard]) -> None:
    """As many reports as images."""
    guard = attach()
    draw(pipe, num_images_per_prompt=3)
    assert [report.index for report in guard.report().images] == [0, 1, 2]


def test_where_nothing_fires_there_is_no_heat(pipe: Any, attach: Callable[..., Guard]) -> None:
    """The image is listed all the same, with zeros, and says so in words."""
    report = one(pipe, attach(threshold=1e4), "a pistol")
    assert [(found.fired, found.positions, found.peak, found.heat) for found in report.concepts] == [
        (False, 0.0, 0.0, None)
    ] * 3
    assert report.explain() == "no concept of the guard fired"


def test_the_words_say_how_much_and_where() -> None:
    """Steps, timesteps, share, the part of the image, and the peak; concepts that did not fire are not mentioned."""
    heat = np.zeros((6, 6), dtype=np.float32)
    heat[:2, 4:] = 0.5
    found = ConceptInImage("pistol", (900.0, 500.0), 0.125, 2.5, heat)
    report = ImageReport(0, 3, (ConceptInImage("cat", (), 0.0, 0.0, None), found))
    assert report.explain() == (
        "pistol: fired in 2 of 3 steps (timesteps 900 to 500), at 12.5% of the positions, most at the upper right, "
        "at most 2.5 times its threshold"
    )
    assert report.to_json()["concepts"][1] == {
        "concept": "pistol", "fired": True, "timesteps": [900.0, 500.0], "positions": 0.125, "peak": 2.5,
    }  # fmt: skip


def test_a_picture_shows_where_it_fired(pipe: Any, attach: Callable[..., Guard]) -> None:
    """Coloured where the heat is; none for a concept that fired nowhere."""
    guard = attach(strength=0.0, threshold=THRESHOLD)
    draw(pipe, steps=2)
    (report,) = guard.report().images
    image = Image.new("RGB", (16, 16), (90, 90, 90))
    picture = report.picture(image, "pistol")
    assert picture is not None
    heat = report.concept("pistol").heat
    assert heat is not None
    assert heat.min() == 0 < heat.max()
    pixels = np.asarray(picture).astype(int)
    side = picture.width // heat.shape[1]
    row, column = np.unravel_index(heat.argmax(), heat.shape)
    centre = pixels[row * side + side // 2, column * side + side // 2]
    assert centre[0] - centre[2] > 20
    assert report.picture(image) is not None
    silent = replace(report, concepts=tuple(replace(one, heat=None) for one in report.concepts))
    assert silent.picture(image) is None
    with pytest.raises(KeyError):
        report.picture(image, "cat")
