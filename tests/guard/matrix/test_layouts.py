"""The matrix's rows about models: where a hookpoint has one output the guard acts, elsewhere it says so."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import diffusers
import pytest

from tests.guard.matrix import pipes
from tests.guard.matrix.pipes import guard_at
from tests.guard.matrix.stage import Case, keys, play
from tests.tiny import draw

made: Callable[[str], Any] = cache(lambda name: pipes.MAKERS[name]())
"""A pipeline of each family, once; tests copy it."""

FLUX_FF = "transformer.transformer_blocks.0.ff"


def into_unknown(pipe: Any) -> None:
    """A denoiser that nobody has looked into."""
    pipe.transformer = diffusers.Lumina2Transformer2DModel(
        in_channels=4, hidden_size=16, num_layers=1, num_refiner_layers=1, num_attention_heads=2, num_kv_heads=1
    )


FAMILIES: dict[str, tuple[str, Case]] = {
    "sdxl": ("sdxl", Case(call=pipes.draw_sdxl, guard=partial(guard_at, "unet.up_blocks.0.attentions.1", 32))),
    "sd3-ff": ("sd3", Case(call=pipes.draw_sd3, guard=partial(guard_at, "transformer.transformer_blocks.0.ff"))),
    "sd3-block": ("sd3", Case(call=pipes.draw_sd3, guard=partial(guard_at, "transformer.transformer_blocks.0"))),
    "sd3-attention": (
        "sd3",
        Case(call=pipes.draw_sd3, guard=partial(guard_at, "transformer.transformer_blocks.0.attn")),
    ),
    "flux-ff": ("flux", Case(call=pipes.draw_flux, guard=partial(guard_at, FLUX_FF), unit=1000.0)),
    "flux-offgrid": (
        "flux",
        Case(call=partial(pipes.draw_flux, steps=7), guard=partial(guard_at, FLUX_FF), unit=1000.0),
    ),
    "flux-single": (
        "flux",
        Case(
            call=pipes.draw_flux,
            guard=partial(guard_at, "transformer.single_transformer_blocks.1.attn"),
            unit=1000.0,
        ),
    ),
    "flux-block": ("flux", Case(call=pipes.draw_flux, guard=partial(guard_at, "transformer.transformer_blocks.0"))),
    "pixart": ("pixart", Case(call=pipes.draw_pixart, guard=partial(guard_at, "transformer.transformer_blocks.0"))),
    "sana": ("sana", Case(call=pipes.draw_sana, guard=partial(guard_at, "transformer.transformer_blocks.0"))),
    "unknown": ("sana", Case(before=into_unknown, guard=partial(guard_at, "transformer.layers.0"))),
    "sana-sprint": (
        "sana",
        Case(
            before=lambda pipe: setattr(pipe, "transformer", pipes.sana(sprint=True).transformer),
            guard=partial(guard_at, "transformer.transformer_blocks.0"),
        ),
    ),
}


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # diffusers' schedulers on numpy 2
@pytest.mark.filterwarnings("ignore:torch.meshgrid:UserWarning")  # PixArt's first call
@keys(FAMILIES)
def test_layouts(key: str) -> None:
    """Each family's pipeline, called as users call it: as the matrix says."""
    family, case = FAMILIES[key]
    play(key, case, made(family))


def test_sd(pipe: Any) -> None:
    """The row sd: SD 1.x, a map of tokens between convolutions."""
    play("sd", Case(call=draw), pipe)


def test_flux_is_read_at_the_step_that_it_is_in() -> None:
    """FLUX is given timesteps in thousands: with one calibrated timestep in reach, the other steps are refused."""
    pipe = copy.deepcopy(made("flux"))
    guard = guard_at(FLUX_FF, timesteps=(1000, 980))
    guard.attach(pipe)
    with pytest.raises(Exception, match="away from the nearest calibrated one"):
        pipes.draw_flux(pipe)


@pytest.mark.filterwarnings("ignore:torch.meshgrid:UserWarning")
def test_a_pipeline_that_does_not_count_its_steps_is_watched() -> None:
    """PixArt's pipelines have no num_timesteps: a cache of the denoiser's output is noticed all the same."""
    pipe = copy.deepcopy(made("pixart"))
    assert not hasattr(pipe, "num_timesteps")
    guard_at("transformer.transformer_blocks.0").attach(pipe)
    stock, kept = type(pipe.transformer), []

    class Cached(stock):  # type: ignore[misc, valid-type]
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            if not kept:
                kept.append(super().__call__(*args, **kwargs))
            return kept[0]

    pipe.transformer.__class__ = Cached
    with pytest.raises(Exception, match=f"expected at least {pipes.STEPS} guarded denoiser calls"):
        pipes.draw_pixart(pipe)
