"""The matrix's rows about LoRA, which adds layers to a model that is guarded."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor

from saeuron_guard.guard.guard import Guard
from saeuron_guard.pipelines.fingerprint import fingerprint
from tests.guard.matrix.pipes import guard_at
from tests.guard.matrix.stage import Case, keys, play
from tests.guard.matrix.test_moves import sequential_offload
from tests.tiny import HOOKPOINTS, draw, make_guard

LAYERS = ("attn1.to_q", "attn1.to_out.0", "attn2.to_k")


def lora(seed: int = 0, layers: tuple[str, ...] = LAYERS, place: str = "transformer_blocks.0.") -> dict[str, Tensor]:
    """A LoRA of rank 2 for layers of the first hookpoint's block, as a file holds it."""
    generator = torch.Generator().manual_seed(seed)
    return {
        f"{HOOKPOINTS[0]}.{place}{layer}.lora_{half}.weight": torch.randn(shape, generator=generator) / 2
        for layer in layers
        for half, shape in (("A", (2, 32)), ("B", (32, 2)))
    }


def load(pipe: Any, seed: int = 0) -> None:
    """Load one under a name."""
    pipe.load_lora_weights(lora(seed), adapter_name=f"style{seed}")


def unload(pipe: Any) -> None:
    """Load, draw, unload."""
    load(pipe)
    draw(pipe, steps=1)
    pipe.unload_lora_weights()


def fuse(pipe: Any) -> None:
    """Into the weights."""
    load(pipe)
    pipe.fuse_lora(components=["unet"])


def unfuse(pipe: Any) -> None:
    """Out of the weights again, up to rounding."""
    fuse(pipe)
    pipe.unfuse_lora(components=["unet"])


def switch(pipe: Any) -> None:
    """From one to the other."""
    load(pipe, 0)
    load(pipe, 1)
    pipe.set_adapters(["style0"])
    draw(pipe, steps=1)
    pipe.set_adapters(["style1"])


def offload_and_load(pipe: Any) -> None:
    """Diffusers takes accelerate's hooks off while it loads; here they are put back by hand."""
    sequential_offload(pipe)
    pipe.remove_all_hooks()
    load(pipe)
    sequential_offload(pipe)


def wrap_hookpoint(pipe: Any) -> None:
    """A LoRA for the very layer that the guard watches."""
    pipe.load_lora_weights(lora(layers=("to_q",), place="transformer_blocks.0.attn1."))


CASES = {
    "lora-load": Case(after=load),
    "lora-unload": Case(after=unload),
    "lora-fuse": Case(after=fuse),
    "lora-unfuse": Case(after=unfuse),
    "lora-before": Case(before=load),
    "lora-hotswap": Case(after=switch),
    "lora-offload": Case(after=offload_and_load),
    "lora-layer": Case(
        after=wrap_hookpoint, guard=partial(guard_at, f"{HOOKPOINTS[0]}.transformer_blocks.0.attn1.to_q", 32)
    ),
}


@pytest.mark.filterwarnings("ignore:Already found a `peft_config`:UserWarning")  # a second adapter, on purpose
@keys(CASES)
def test_lora(pipe: Any, key: str) -> None:
    """Loaded, fused, switched and taken off after the guard was attached: as the matrix says."""
    play(key, CASES[key], pipe)


def test_lora_fingerprint(pipe: Any) -> None:
    """The row lora-fingerprint: with a LoRA it is another model, on which nobody calibrated the guard."""
    named: Callable[[], Guard] = partial(make_guard, fingerprint=fingerprint(pipe))
    play("lora-fingerprint", Case(before=load, guard=named), pipe)


def test_without_peft_nothing_is_loaded(pipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Diffusers refuses a LoRA where peft is not installed, and the guard stays effective."""
    monkeypatch.setattr(diffusers.utils, "USE_PEFT_BACKEND", False)

    def try_to_load(pipe: Any) -> None:
        with pytest.raises(ValueError, match="PEFT backend is required"):
            load(pipe)

    play("lora-load", Case(after=try_to_load), pipe)
