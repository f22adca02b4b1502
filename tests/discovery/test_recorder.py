"""What statistics are filed under: the scheduler's timestep, in whatever unit and place the denoiser takes it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from saeuron_guard.discovery.recorder import Recorder
from tests.guard.matrix import pipes


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # diffusers' Euler scheduler
@pytest.mark.parametrize(
    ("make", "draw", "hookpoint", "images", "guided"),
    [
        (pipes.flux, pipes.draw_flux, "transformer.transformer_blocks.0.ff", 1, False),
        (pipes.sd3, pipes.draw_sd3, "transformer.transformer_blocks.0.ff", 1, True),
        (pipes.sdxl, pipes.draw_sdxl, "unet.up_blocks.0.attentions.1", 1, True),
    ],
    ids=["flux", "sd3", "sdxl"],
)
def test_calls_are_filed_under_the_schedulers_timestep(
    make: Callable[[], Any], draw: Callable[[Any], Any], hookpoint: str, images: int, guided: bool
) -> None:
    """FLUX is given thousandths of it, in the fourth place of its arguments; the others the timestep itself."""
    pipe = make()
    recorder = Recorder((hookpoint,), images, guided=guided)
    with recorder.attached(pipe):
        draw(pipe)
    expected = [round(float(timestep)) for timestep in pipe.scheduler.timesteps]
    assert max(expected) > 10
    assert [call.timestep for call in recorder.calls] == expected
    assert {tuple(call.activations) for call in recorder.calls} == {(hookpoint,)}
