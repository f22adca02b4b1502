"""Finds code that lets a hookpoint's block run, or seem to run, without computing what the guard is to edit.

A block that is skipped altogether is missed when the denoiser call ends. Worse are caches that call the block and hand
its input on as its output: the hook runs, and edits what nobody uses.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from saeuron_guard.errors import GuardNotEffective

_HARMLESS = frozenset(
    {
        "faster_cache_block",
        "faster_cache_denoiser",
        "group_offloading",
        "layer_execution_tracker",
        "layerwise_casting",
        "lazy_prefetch_group_offloading",
        "peft_autocast_disable",
        "pyramid_attention_broadcast",
    }
)
"""Hooks of diffusers that leave every block's output to the guard; each is in the tests. All others are refused."""

_WRAPPERS = ("accelerate.", "diffusers.hooks.")
"""Libraries that replace a module's forward() by one that calls it: for offloading and for the hooks above."""


def refuse_bypasses(modules: Mapping[str, nn.Module], blocks: Mapping[str, nn.Module]) -> None:
    """Raise GuardNotEffective when a cache or somebody's forward() stands between the hooks and what they edit.

    ``modules``: all of the denoiser's, by name; ``blocks``: those of the hookpoints, by hookpoint.
    """
    for name, module in modules.items():
        registry = module.__dict__.get("_diffusers_hook")
        if registry is not None:
            _refuse_hooks(name, registry.hooks)
    for hookpoint, block in blocks.items():
        _refuse_forward(hookpoint, block)


def _refuse_hooks(name: str, hooks: Iterable[str]) -> None:
    strange = sorted(set(hooks) - _HARMLESS)
    if strange:
        raise GuardNotEffective(
            f"{name or 'the denoiser'} has the diffusers hook {', '.join(strange)}, which may hand a block's input on "
            "as its output, so that the guard would edit what is not used (expected: no hooks but those for "
            "offloading, casting and attention caches); images are withheld. Usual causes: enable_cache with "
            "FirstBlockCache, MagCache, SeaCache or TaylorSeer, skipped layers. Call disable_cache()."
        )


def _refuse_forward(hookpoint: str, block: nn.Module) -> None:
    # torch.compile(block) has a forward() of its own; the block's is inside.
    forward = _innermost(dict(block.named_children()).get("_orig_mod", block))
    if forward is not None:
        raise GuardNotEffective(
            f"the forward() of {hookpoint} was replaced by {_origin(forward)} (expected: the block's own, or one that "
            "accelerate or diffusers put around it), so its output may not be what the guard's SAE was trained on; "
            "images are withheld. Usual causes: DeepCache and other caches, patches for speed. Turn that off, then "
            "attach the guard again."
        )


def _innermost(block: nn.Module) -> Any:
    """What the known wrappers of ``block``'s forward() call in the end; None when that is the block's own."""
    forward = block.__dict__.get("forward")
    while forward is not None:
        if getattr(forward, "__func__", None) is type(block).forward:
            return None  # what both libraries leave behind when they take their wrappers off
        if not (isinstance(forward, functools.partial) and _origin(forward).startswith(_WRAPPERS)):
            return forward
        forward = getattr(forward, "__wrapped__", None)
    return None


def _origin(forward: Any) -> str:
    """The module and name of a function; of the one inside a partial, which is how both libraries wrap."""
    function = getattr(forward, "func", forward)
    names = getattr(function, "__globals__", {})
    module = names.get("__name__", "") if isinstance(names, dict) else ""
    return f"{module or type(function).__module__}.{getattr(function, '__name__', type(function).__name__)}"
