"""The report says what fired: checked against a recount from recorded activations."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch

from saeuron_guard.guard.guard import Guard
from saeuron_guard.guard.layout import activation_of, positions_of
from tests.tiny import HOOKPOINTS, draw, make_coder

THRESHOLD = 1.5


def record(pipe: Any, **settings: Any) -> dict[str, list[torch.Tensor]]:
    """Latents (batch, pos, latents) at each hookpoint of every denoiser call."""
    latents: dict[str, list[torch.Tensor]] = {hookpoint: [] for hookpoint in HOOKPOINTS}
    handles = []
    for seed, hookpoint in enumerate(HOOKPOINTS):

        def keep(
            _module: Any,
            _args: Any,
            output: Any,
            coder: Any = make_coder(seed),  # noqa: B008 - bound for each turn of the loop
            store: list[torch.Tensor] = latents[hookpoint],
        ) -> None:
            store.append(coder.encode(positions_of(activation_of(output, ""), 32, "")))

        handles.append(pipe.unet.get_submodule(hookpoint.removeprefix("unet.")).register_forward_hook(keep))
    draw(pipe, **settings)
    for handle in handles:
        handle.remove()
    return latents


@pytest.mark.parametrize("guidance", [1.0, 5.0])
def test_counts_are_those_of_a_recount(pipe: Any, attach: Callable[..., Guard], guidance: float) -> None:
    """Steps, share of positions and peak of each concept, with strength 0 so that recording sees the same latents."""
    latents = record(pipe, steps=4, guidance=guidance)
    guard = attach(strength=0.0, threshold=THRESHOLD)
    draw(pipe, steps=4, guidance=guidance)
    report = guard.report()
    assert report.calls == 4
    for concept, hookpoint, features in [
        ("pistol", HOOKPOINTS[0], slice(0, 8)),
        ("knife", HOOKPOINTS[0], slice(8, 12)),
        ("Neon", HOOKPOINTS[1], slice(20, 28)),
    ]:
        selected = torch.stack(latents[hookpoint])[..., features]
        fires = (selected > THRESHOLD).any(-1)
        found = report.concept(concept)
        assert found.fired == bool(fires.any())
        assert found.steps == int(fires.flatten(1).any(1).sum())
        assert found.positions == pytest.approx(float(fires.float().mean()))
        assert found.peak == pytest.approx(float(selected.max()) / THRESHOLD if found.fired else 0.0, rel=1e-4)
    assert 0 < report.concept("pistol").positions < 1


def test_nothing_fired(pipe: Any, attach: Callable[..., Guard]) -> None:
    """Above all latents nothing fires: calls are counted, everything else is zero."""
    guard = attach(threshold=1e4)
    draw(pipe)
    report = guard.report()
    assert report.calls == 3
    assert [(found.concept, found.fired, found.steps, found.positions, found.peak) for found in report.concepts] == [
        (concept, False, 0, 0.0, 0.0) for concept in ("pistol", "knife", "Neon")
    ]


def test_reports_add_up_over_images_and_serialise(pipe: Any, attach: Callable[..., Guard]) -> None:
    """Two images count twice the steps at the same share and peak; the report is plain JSON; detach ends it."""
    guard = attach(threshold=THRESHOLD)
    draw(pipe)
    once = guard.report()
    draw(pipe)
    twice = guard.report()
    for first, second in zip(once.concepts, twice.concepts, strict=True):
        assert second.steps == 2 * first.steps
        assert second.positions == pytest.approx(first.positions)
        assert second.peak == first.peak
    assert json.loads(json.dumps(twice.to_json()))["concepts"][0]["concept"] == "pistol"
    guard.detach()
    assert guard.report().calls == 0


def test_an_image_that_failed_counts_as_far_as_it_went(pipe: Any, attach: Callable[..., Guard]) -> None:
    """Denoiser calls before an exception stay in the report."""
    guard = attach()

    def fail(_pipe: Any, step: int, _timestep: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
        if step == 1:
            raise ZeroDivisionError
        return kwargs

    with pytest.raises(ZeroDivisionError):
        draw(pipe, callback_on_step_end=fail)
    assert guard.report().calls == 2
