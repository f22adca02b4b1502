"""The matrix's rows about caches, and about other code that gets between a guard and its blocks."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import diffusers
import pytest
import torch
from accelerate.hooks import ModelHook, add_hook_to_module, remove_hook_from_module
from diffusers.hooks import LayerSkipConfig, apply_faster_cache, apply_layer_skip
from diffusers.hooks.mag_cache import FLUX_MAG_RATIOS

from tests.guard.matrix import pipes
from tests.guard.matrix.pipes import guard_at
from tests.guard.matrix.stage import Case, keys, play
from tests.tiny import HOOKPOINTS, draw, make_guard

PATH = HOOKPOINTS[0].partition(".")[2]


@cache
def flux() -> Any:
    """The family that diffusers' caches are made for."""
    return pipes.flux()


@cache
def pixart() -> Any:
    """The one small family whose pipeline FasterCache can run with."""
    return pipes.pixart()


def enable(kind: str, **settings: Any) -> Callable[[Any], None]:
    """Switch one of diffusers' caches on."""

    def change(pipe: Any) -> None:
        pipe.transformer.enable_cache(getattr(diffusers, kind)(**settings))

    return change


def broadcast(pipe: Any) -> None:
    """Attention is computed in every other step."""
    config = diffusers.PyramidAttentionBroadcastConfig(
        spatial_attention_block_skip_range=2,
        spatial_attention_timestep_skip_range=(-1, 1001),
        spatial_attention_block_identifiers=("transformer_blocks",),
        current_timestep_callback=lambda: int(pipe._current_timestep),
    )
    pipe.transformer.enable_cache(config)


def skip_layers(pipe: Any) -> None:
    """The second block hands its input on."""
    apply_layer_skip(pipe.transformer, LayerSkipConfig(indices=[0], fqn="transformer_blocks"))


def through_another_pipeline(pipe: Any) -> Any:
    """Draws by a pipeline without a guard, on the guarded one's denoiser, with a cache."""
    other = pipes.quiet(diffusers.FluxPipeline(**pipe.components))
    enable("FirstBlockCacheConfig", threshold=10.0)(other)
    return pipes.draw_flux(other)


def keep(target: Any) -> None:
    """What DeepCache does: the first step's result in all the others."""
    kept, stock = [], target.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        if not kept:
            kept.append(stock(*args, **kwargs))
        return kept[0]

    target.forward = forward


def call_instead(target: Any, call: Callable[..., Any]) -> None:
    """Let calls of a module go to ``call``, hooks and all."""
    stock = type(target)
    target.__class__ = type(stock.__name__, (stock,), {"__call__": call})


def keep_denoiser(pipe: Any) -> None:
    """A cache over the whole denoiser."""
    stock, kept = type(pipe.unet), []

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        if not kept:
            kept.append(stock.__call__(self, *args, **kwargs))
        return kept[0]

    call_instead(pipe.unet, call)


def forward_directly(module: Any) -> None:
    """The module's forward() is called, so its hooks don't run."""
    call_instead(module, lambda self, *args, **kwargs: self.forward(*args, **kwargs))


def clear_hooks(pipe: Any) -> None:
    """All hooks of all modules."""
    for module in pipe.unet.modules():
        module._forward_hooks.clear()
        module._forward_pre_hooks.clear()


def draw_and_clear(pipe: Any) -> Any:
    """The hooks go after the first step."""

    def clear(_pipe: Any, step: int, _timestep: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
        if step == 0:
            clear_hooks(pipe)
        return kwargs

    return draw(pipe, callback_on_step_end=clear)


def remove_handle(pipe: Any) -> None:
    """As if by the handle that registering the hook gave."""
    hooks = pipe.unet.get_submodule(PATH)._forward_hooks
    hooks.popitem()


def accelerate_and_back(pipe: Any) -> None:
    """Accelerate takes off its own hooks alone."""
    add_hook_to_module(pipe.unet, ModelHook())
    add_hook_to_module(pipe.unet.get_submodule(PATH), ModelHook())
    remove_hook_from_module(pipe.unet, recurse=True)


def replace_block(pipe: Any) -> None:
    """A copy without the hooks that the guard has handles for."""
    attentions = pipe.unet.up_blocks[1].attentions
    attentions[1] = copy.deepcopy(attentions[1])


def halve(pipe: Any) -> None:
    """Runs the conditional half alone and takes its result for both, as FasterCache does in some steps."""
    stock = pipe.unet.forward

    def forward(sample: Any, timestep: Any, encoder_hidden_states: Any, **kwargs: Any) -> Any:
        (result,) = stock(sample.chunk(2)[1], timestep, encoder_hidden_states.chunk(2)[1], **kwargs)
        return (torch.cat([result, result]),)

    pipe.unet.forward = forward


def faster_cache(pipe: Any) -> None:
    """The unconditional half is left out in every other step."""
    config = diffusers.FasterCacheConfig(
        unconditional_batch_skip_range=2,
        unconditional_batch_timestep_skip_range=(-1, 1001),
        current_timestep_callback=lambda: 500,
        attention_weight_callback=lambda _: 0.5,
        tensor_format="BCHW",
    )
    apply_faster_cache(pipe.transformer, config)


FF = "transformer.transformer_blocks.1.ff"
on_flux = partial(Case, call=partial(pipes.draw_flux, steps=6), guard=partial(guard_at, FF), unit=1000.0)

FLUX_CASES = {
    "pab": on_flux(after=broadcast),
    "first-block-cache": on_flux(after=enable("FirstBlockCacheConfig", threshold=10.0)),
    "first-block-cache-shared": Case(call=through_another_pipeline, guard=partial(guard_at, FF)),
    "taylorseer": on_flux(after=enable("TaylorSeerCacheConfig")),
    "mag-cache": on_flux(after=enable("MagCacheConfig", mag_ratios=FLUX_MAG_RATIOS, num_inference_steps=6)),
    "sea-cache": on_flux(after=enable("SeaCacheConfig")),
    "layer-skip": on_flux(after=skip_layers),
}

CASES = {
    "half-batch": Case(after=halve, guard=partial(make_guard, branches="conditional")),
    "deep-cache": Case(after=lambda pipe: keep(pipe.unet.up_blocks[1])),
    "deep-cache-block": Case(after=lambda pipe: keep(pipe.unet.get_submodule(PATH))),
    "denoiser-cache": Case(after=keep_denoiser),
    "block-forward": Case(after=lambda pipe: forward_directly(pipe.unet.get_submodule(PATH))),
    "denoiser-forward": Case(after=lambda pipe: forward_directly(pipe.unet)),
    "handle-removed": Case(after=remove_handle),
    "hooks-cleared": Case(after=clear_hooks),
    "hooks-cleared-midway": Case(call=draw_and_clear),
    "accelerate-removed": Case(after=accelerate_and_back),
    "block-replaced": Case(after=replace_block),
    "denoiser-replaced": Case(after=lambda pipe: setattr(pipe, "unet", copy.deepcopy(pipe.unet))),
}


@keys(CASES)
def test_bypasses(pipe: Any, key: str) -> None:
    """Whatever gets between the guard and its blocks: as the matrix says."""
    play(key, CASES[key], pipe)


@keys(FLUX_CASES)
def test_caches(key: str) -> None:
    """Diffusers' own caches, on FLUX: as the matrix says."""
    play(key, FLUX_CASES[key], flux())


@pytest.mark.filterwarnings("ignore:torch.meshgrid:UserWarning")  # PixArt's first call
def test_faster_cache() -> None:
    """The row faster-cache: on PixArt, the one small model that it can run on."""
    guard = partial(guard_at, "transformer.transformer_blocks.0")
    play("faster-cache", Case(after=faster_cache, call=pipes.draw_pixart, guard=guard), pixart())


def test_a_cache_that_was_there_before_is_refused() -> None:
    """A cache switched on before the guard is attached is found as well, and switched off leaves the guard working."""
    enabled = enable("FirstBlockCacheConfig", threshold=10.0)
    play("first-block-cache", on_flux(before=enabled), flux())
    play("pab", on_flux(before=enabled, after=lambda pipe: pipe.transformer.disable_cache()), flux())


@pytest.mark.parametrize("enabled", ["first-block-cache", "taylorseer"])
def test_the_caches_do_skip_blocks(enabled: str) -> None:
    """Control: without a guard the caches run, and change the picture."""
    pipe = copy.deepcopy(flux())
    case = FLUX_CASES[enabled]
    before = case.call(pipe)
    case.after(pipe)
    assert not torch.equal(case.call(pipe), before)
