"""Images on which a concept with action detect is present do not leave; everything else does, and each is told."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from saeuron_guard.errors import GuardNotEffective, GuardWarning, ImageRefused
from saeuron_guard.guard.decision_log import DecisionLog
from saeuron_guard.guard.guard import Guard
from saeuron_guard.guard.presence import present_in
from saeuron_guard.guard.refusal import with_blanks
from tests.guard.logbook import decisions_of
from tests.tiny import HOOKPOINTS, draw, make_coder, make_config, make_guard, make_point, make_rule

Attach = Callable[..., Guard]
PROMPTS = ["a pistol", "a cat", "a dog"]


def make_detector(share: float, mode: str = "enforce", *, edited: bool = False, threshold: float = 0.5) -> Guard:
    """A guard that detects a concept, and edits another if asked to."""
    coder = make_coder()
    rule = replace(make_rule("pistol", range(8), threshold=threshold), action="detect", mode=mode, share=share)
    rules = [rule, make_rule("knife", range(20, 28))] if edited else [rule]
    return Guard(make_config([make_point(HOOKPOINTS[0], coder, rules)]), {HOOKPOINTS[0]: coder})


@pytest.fixture
def on(pipe: Any) -> Iterator[Attach]:
    """Attaches a guard to the tiny pipeline until the end of the test."""
    with ExitStack() as stack:

        def attach(guard: Guard, **settings: Any) -> Guard:
            stack.callback(guard.detach)
            return guard.attach(pipe, **settings)

        yield attach


@pytest.fixture(scope="module")
def shares(shared_pipe: Any) -> list[float]:
    """At which share of its positions the concept fires, for each of the prompts."""
    guard = make_detector(1.0).attach(shared_pipe)
    draw(shared_pipe, prompt=PROMPTS)
    found = [image.concept("pistol").positions for image in guard.report().images]
    guard.detach()
    assert len(set(found)) == 3
    return found


def test_by_default_no_image_of_the_call_is_given(pipe: Any, on: Attach, shares: list[float]) -> None:
    """The error names the image and the concept, the report flags it; the next call without it is given."""
    most = shares.index(max(shares))
    guard = on(make_detector(max(shares)))
    with pytest.raises(
        ImageRefused, match=rf"policy tiny refuses image {most}: pistol \(fired at.*refuse='blank'"
    ) as caught:
        draw(pipe, prompt=PROMPTS)
    assert caught.value.refused == {most: ("pistol",)}
    assert caught.value.exit_code == 3
    assert [image.refused for image in guard.report().images] == [
        ("pistol",) if place == most else () for place in range(3)
    ]
    assert "refused: pistol" in guard.report().images[most].explain()
    assert guard.report().images[most].to_json()["refused"] == ["pistol"]
    guard.detach()
    on(make_detector(1.0))
    assert draw(pipe, prompt=PROMPTS).shape[0] == 3


@pytest.mark.parametrize("form", ["pil", "np", "pt", "latent", "tuple"])
def test_blank_images_stand_for_refused_ones(pipe: Any, on: Attach, shares: list[float], form: str) -> None:
    """Black and flagged, in every form that pipelines give; the other images are those without a guard, bit for bit."""
    refused = [share >= sorted(shares)[1] for share in shares]
    settings: dict[str, Any] = {
        "num_inference_steps": 3,
        "guidance_scale": 5.0,
        "output_type": "pt" if form == "tuple" else form,
        "return_dict": form != "tuple",
    }

    def call() -> Any:
        return pipe(PROMPTS, generator=torch.Generator().manual_seed(7), **settings)

    def pictures(output: Any) -> list[np.ndarray]:
        return [np.asarray(image) for image in (output[0] if form == "tuple" else output.images)]

    stock = call()
    guard = on(make_detector(sorted(shares)[1]), refuse="blank")
    output = call()
    assert type(output) is type(stock)
    for place, (before, after) in enumerate(zip(pictures(stock), pictures(output), strict=True)):
        assert before.any()
        assert after.shape == before.shape
        assert not after.any() if refused[place] else np.array_equal(before, after)
    assert [bool(image.refused) for image in guard.report().images] == refused
    if form != "tuple":
        assert output.refused == refused


def test_nothing_refused_nothing_changed(pipe: Any, on: Attach) -> None:
    """A concept that is not present costs no bit, and every image is flagged as given."""
    before = draw(pipe, prompt=PROMPTS)
    on(make_detector(1.0), refuse="blank")
    output = pipe(PROMPTS, num_inference_steps=3, guidance_scale=5.0, generator=torch.Generator().manual_seed(7))
    assert output.refused == [False, False, False]
    assert torch.equal(draw(pipe, prompt=PROMPTS), before)


@pytest.mark.parametrize("mode", ["observe", "warn"])
def test_only_an_enforced_rule_refuses(pipe: Any, on: Attach, mode: str) -> None:
    """With the other modes a concept may be present everywhere."""
    on(make_detector(0.0, mode))
    if mode == "warn":
        with pytest.warns(RuntimeWarning, match="policy tiny warns of image 0: pistol"):
            draw(pipe)
    else:
        draw(pipe)


def test_a_rule_that_edits_does_not_refuse(pipe: Any, on: Attach) -> None:
    """A policy may edit one concept and refuse another; each is done on the same image."""
    before = draw(pipe)
    guard = on(make_detector(1.0, edited=True))
    assert not torch.equal(draw(pipe), before)
    guard.detach()
    on(make_detector(0.01, edited=True))
    with pytest.raises(ImageRefused, match="pistol"):
        draw(pipe)


def test_every_image_of_a_refused_call_has_its_line(pipe: Any, on: Attach, shares: list[float], tmp_path: Path) -> None:
    """Refused ones with the concept, the others as withheld because of them; with blanks these are released."""
    most = shares.index(max(shares))
    log = DecisionLog(tmp_path / "log.jsonl")
    guard = on(make_detector(max(shares)), log=log)
    with pytest.raises(ImageRefused):
        draw(pipe, prompt=PROMPTS)
    guard.detach()
    on(make_detector(max(shares)), log=log, refuse="blank")
    draw(pipe, prompt=PROMPTS)
    lines = decisions_of(log.path)
    assert [line.image for line in lines] == [0, 1, 2, 0, 1, 2]
    expected = ["refused" if place == most else "withheld" for place in range(3)]
    expected += ["refused" if place == most else "released" for place in range(3)]
    assert [line.outcome for line in lines] == expected
    whys = {line.outcome: line.why for line in lines}
    assert whys == {
        "refused": "present: pistol",
        "withheld": "another image of the call is refused",
        "released": "",
    }


def test_a_gate_that_cannot_tell_images_apart_does_not_refuse_silently(pipe: Any, on: Attach) -> None:
    """Rules that refuse or warn need the exact gate; attaching says so. Unknown ways to refuse are refused."""
    for mode in ("enforce", "warn"):
        with pytest.raises(GuardNotEffective, match="does not tell images apart"):
            on(make_detector(0.5, mode, edited=True), gate="threshold")
    with pytest.raises(ValueError, match="refuse is 'blur', expected error or blank"):
        on(make_detector(0.5), refuse="blur")
    on(make_guard(), gate="threshold")
    draw(pipe)


def test_images_that_cannot_be_told_apart_are_withheld(pipe: Any, on: Attach, monkeypatch: pytest.MonkeyPatch) -> None:
    """A call whose rows are no multiple of its images gives none of them if one might have to be refused."""
    on(make_detector(1.0))
    assert draw(pipe, prompt=PROMPTS).shape[0] == 3
    monkeypatch.setattr("saeuron_guard.guard.attach.image_count", lambda _: 4)
    with pytest.raises(GuardNotEffective, match="no multiple of the pipeline's images"):
        draw(pipe, prompt=PROMPTS)


@pytest.mark.parametrize("share", [0.01, 1.0])
def test_another_pipeline_on_the_model_cannot_get_around_it(pipe: Any, on: Attach, share: float) -> None:
    """Nobody looks at the images of a pipeline that shares the denoiser, so a guard that refuses gives none there.

    One that only edits acts there as everywhere; one that only warns lets them leave, and says so.
    """
    other = type(pipe)(**pipe.components, requires_safety_checker=False)
    other.set_progress_bar_config(disable=True)
    stock = draw(other)
    guard = on(make_detector(share), refuse="blank")
    with pytest.raises(GuardNotEffective, match=r"outside of the guarded pipeline.*cannot be refused"):
        draw(other)
    guard.detach()
    guard = on(make_detector(share, "warn"))
    with pytest.warns(GuardWarning, match="outside of the guarded pipeline"):
        assert torch.equal(draw(other), stock)
    guard.detach()
    on(make_guard())
    assert not torch.equal(draw(other), stock)


def test_a_logged_guard_gives_no_image_without_a_line(pipe: Any, on: Attach, tmp_path: Path) -> None:
    """Not through a pipeline that shares the denoiser either."""
    other = type(pipe)(**pipe.components, requires_safety_checker=False)
    other.set_progress_bar_config(disable=True)
    on(make_guard(), log=DecisionLog(tmp_path / "log.jsonl"))
    with pytest.raises(GuardNotEffective, match="decisions cannot be logged"):
        draw(other)
    draw(pipe)


def test_every_image_is_warned_of(pipe: Any, on: Attach) -> None:
    """Also under Python's default filter, which shows equal texts from one place once."""
    on(make_detector(0.01, "warn"))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        for _ in range(3):
            draw(pipe)
    assert len([warning for warning in caught if warning.category is GuardWarning]) == 3


def test_what_cannot_be_blanked_is_withheld() -> None:
    """Frames of a video, or anything that is no image."""
    for images, kind in (([[Image.new("RGB", (2, 2))]], "list"), ("text", "str"), ([1], "int")):
        with pytest.raises(GuardNotEffective, match=f"gave {kind}, which cannot be blanked"):
            with_blanks((images, None), [0])


@given(positions=st.floats(0, 1), share=st.floats(0, 1))
def test_a_concept_is_present_from_its_share_on(positions: float, share: float) -> None:
    """And never where nothing fires; concepts that the policy does not name are not its business."""
    config = make_detector(share).config
    found = present_in(config, [("pistol", positions), ("cat", 1.0)])
    assert [one.concept for one in found] == (["pistol"] if positions >= share and positions > 0 else [])
    assert all(one.refused and not one.warned for one in found)
