"""The matrix's rows about ways to spend less memory or time on attention that leave the blocks where they are."""

from __future__ import annotations

from functools import partial
from typing import Any

from diffusers.models.attention_processor import AttnProcessor

from tests.guard.matrix.stage import Case, keys, play
from tests.tiny import draw


def tiling(pipe: Any) -> None:
    """The VAE works on parts of the picture."""
    pipe.vae.enable_tiling()
    pipe.vae.enable_slicing()


CASES = {
    "attention-slicing": Case(after=lambda pipe: pipe.enable_attention_slicing(1)),
    "vae-tiling": Case(after=tiling, call=partial(draw, height=48, width=48)),
    "processors": Case(after=lambda pipe: pipe.unet.set_attn_processor(AttnProcessor())),
    "fused-qkv": Case(after=lambda pipe: pipe.fuse_qkv_projections()),
    "freeu": Case(after=lambda pipe: pipe.enable_freeu(s1=0.9, s2=0.2, b1=1.2, b2=1.4)),
}


@keys(CASES)
def test_speed(pipe: Any, key: str) -> None:
    """Switched on after the guard was attached: as the matrix says."""
    play(key, CASES[key], pipe)
