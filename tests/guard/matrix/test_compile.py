"""The matrix's rows about torch.compile, with backends that generate no code; whatever the order, never unguarded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel

from saeuron_guard.guard.guard import Guard
from tests.guard.matrix.stage import Case, keys, play
from tests.tiny import CHANNELS, draw, make_coder, make_config, make_pipeline, make_point, make_rule

HOOKPOINT = "unet.up_blocks.0.attentions.1"
SLOW = ("compile-aot", "compile-in-place-attach", "attach-compile-in-place", "attach-regional")


def guard_of_one(multiplier: float = -4.0) -> Guard:
    """A guard for the small model's one hookpoint."""
    coder = make_coder()
    rule = make_rule("pistol", range(8), multiplier=multiplier)
    return Guard(make_config([make_point(HOOKPOINT, coder, [rule])]), {HOOKPOINT: coder})


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> StableDiffusionPipeline:
    """A pipeline whose UNet is half of the tiny one: tracing takes as long as there are blocks."""
    pipe = make_pipeline(tmp_path_factory.mktemp("small"))
    torch.manual_seed(0)
    pipe.unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(CHANNELS,),
        layers_per_block=1,
        down_block_types=("DownBlock2D",),
        mid_block_type=None,
        up_block_types=("CrossAttnUpBlock2D",),
        cross_attention_dim=32,
        attention_head_dim=4,
        norm_num_groups=8,
    ).eval()
    return pipe


@pytest.fixture(autouse=True)
def _forget_graphs() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def wrap(pipe: Any, backend: str = "eager") -> None:
    """The UNet's wrapper in place of the UNet."""
    pipe.unet = torch.compile(pipe.unet, backend=backend)


def in_place(pipe: Any) -> None:
    """The same UNet, which is compiled when it is called."""
    pipe.unet.compile(backend="eager")


def regional(pipe: Any) -> None:
    """The transformer blocks, each by itself."""
    pipe.unet.compile_repeated_blocks(backend="eager")


def used(compile_it: Callable[[Any], None]) -> Callable[[Any], None]:
    """Compiles and draws, so that there are graphs without the guard."""

    def change(pipe: Any) -> None:
        compile_it(pipe)
        draw(pipe, steps=1)

    return change


def case(**settings: Any) -> Case:
    """A row on the small model, compared with the pictures of a model that is not compiled."""
    return Case(guard=guard_of_one, compare_untouched=True, **settings)


CASES = {
    "compile-attach": case(before=wrap),
    "compile-in-place-attach": case(before=in_place),
    "attach-compile-in-place": case(after=in_place),
    "regional-attach": case(before=used(regional)),
    "attach-regional": case(after=regional),
    "compile-aot": case(before=partial(wrap, backend="aot_eager"), restored=False),
    "compile-in-use": case(before=used(wrap)),
    "compile-in-place-in-use": case(before=used(in_place)),
    "attach-compile": case(after=wrap),
}


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning", "ignore::FutureWarning")  # dynamo's
@keys(CASES, slow=SLOW)
def test_compile(small: Any, key: str) -> None:
    """Graphs without the guard are noticed, graphs with it do as the hooks do."""
    play(key, CASES[key], small)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning", "ignore::FutureWarning")
def test_compile_detach(small: Any) -> None:
    """The row compile-detach: no graph keeps a guard that was detached, nor takes another guard for it."""
    unguarded = draw(small)
    pictures = []
    wrapped, stock = torch.compile(small.unet, backend="eager"), small.unet
    for multiplier in (-4.0, -1.0):
        guard = guard_of_one(multiplier).attach(small)
        pictures.append(draw(small))
        guard.detach()
    small.unet = wrapped
    try:
        for multiplier, wanted in zip((-4.0, -1.0), pictures, strict=True):
            guard = guard_of_one(multiplier).attach(small)
            assert torch.allclose(draw(small), wanted, atol=1e-5)
            guard.detach()
            assert torch.equal(draw(small), unguarded)
    finally:
        small.unet = stock
    assert float((pictures[0] - pictures[1]).abs().max()) > 1e-3


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning", "ignore::FutureWarning")
def test_regional_compile_keeps_its_graphs(small: Any) -> None:
    """With a guard outside of the compiled blocks ten more steps need no new graph."""
    regional(small)
    counts = torch._dynamo.utils.counters["stats"]
    guard = guard_of_one().attach(small)
    try:
        draw(small, steps=2)
        before = counts["unique_graphs"]
        draw(small, steps=10)
        assert before > 0
        assert counts["unique_graphs"] == before
    finally:
        guard.detach()
        for module in small.unet.modules():
            module._compiled_call_impl = None
