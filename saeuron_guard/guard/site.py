"""Where a guard's hooks go in a pipeline."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from saeuron_guard.errors import ModelMismatch
from saeuron_guard.guard.tables import HookpointTables


@dataclass(frozen=True, slots=True)
class Site:
    """Where hooks go: the pipeline's component that denoises, and the block of each hookpoint."""

    component: str
    denoiser: nn.Module
    blocks: dict[str, nn.Module]


def find_site(pipe: Any, tables: Mapping[str, HookpointTables]) -> Site:
    """Look the hookpoints up in ``pipe``; ModelMismatch when one is missing or has another number of channels."""
    components = {hookpoint.partition(".")[0] for hookpoint in tables}
    if len(components) != 1:
        raise ModelMismatch(f"the guard has hookpoints in {sorted(components)}; expected all of them in one denoiser")
    (component,) = components
    denoiser = getattr(pipe, component, None)
    if not isinstance(denoiser, nn.Module):
        raise ModelMismatch(f"{type(pipe).__name__} has no {component!r}, which the guard's hookpoints are in")
    blocks = {hookpoint: block_at(denoiser, hookpoint) for hookpoint in tables}
    for hookpoint, block in blocks.items():
        channels = getattr(block, "out_channels", None)
        d_in = tables[hookpoint].coder.config.d_in
        if isinstance(channels, int) and channels != d_in:
            raise ModelMismatch(f"{hookpoint} has {channels} channels, the guard's SAE {d_in}; it is for another model")
    return Site(component, denoiser, blocks)


def block_at(denoiser: nn.Module, hookpoint: str) -> nn.Module:
    """The block that a hookpoint names; ModelMismatch when there is none."""
    _, _, path = hookpoint.partition(".")
    if not path:
        raise ModelMismatch(f"{hookpoint} is a whole model; expected a block inside it, such as unet.mid_block")
    try:
        return denoiser.get_submodule(path)
    except AttributeError as error:
        raise ModelMismatch(f"the pipeline has no {hookpoint} ({error}); the guard is for another model") from None


def device_of(denoiser: nn.Module) -> torch.device:
    """Where the denoiser computes; offloaded weights lie elsewhere until it does."""
    hook = getattr(denoiser, "_hf_hook", None)
    if (device := getattr(hook, "execution_device", None)) is not None:
        return torch.device(device)
    return next((p.device for p in denoiser.parameters() if not p.is_meta), torch.device("cpu"))


def is_at(denoiser: nn.Module, hookpoint: str, block: nn.Module) -> bool:
    """Whether ``block`` still is the one that ``hookpoint`` names."""
    try:
        return block_at(denoiser, hookpoint) is block
    except ModelMismatch:
        return False
