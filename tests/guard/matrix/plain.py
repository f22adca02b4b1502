"""A guard written plainly: hooks without tables, deltas or checks, for comparison with the real one's pictures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from saeuron_guard.compiler.config import GuardConfig, HookpointConfig
from saeuron_guard.sae.sparse_coder import SparseCoder


def edited(x: Tensor, timestep: float, point: HookpointConfig, coder: SparseCoder) -> Tensor:
    """``x`` (batch, pos, d_in) with every rule's change added, one rule after another; in float32."""
    with torch.autocast("cpu", enabled=False):
        latents = coder.encode(x.float())
        time = min(range(len(point.timesteps)), key=lambda index: abs(point.timesteps[index] - timestep))
        result = x.float()
        for rule in point.rules:
            features = [edit.index for edit in rule.features]
            mean, threshold, active = (
                torch.tensor([getattr(edit, name)[time] for edit in rule.features])
                for name in ("mean", "threshold", "active")
            )
            z = latents[..., features]
            fires = (z > threshold.clamp_min(0)) & active
            change = torch.where(fires, rule.multiplier * mean * z - z, 0.0)
            result = result + rule.strength * change @ coder.W_dec[features]
        return result.to(x.dtype)


@contextmanager
def plain_hooks(
    denoiser: nn.Module, config: GuardConfig, coders: Mapping[str, SparseCoder], *, unit: float = 1.0
) -> Iterator[None]:
    """Edit ``denoiser``'s hookpoints for the length of a ``with`` block; ``unit``: timesteps in one of its own."""
    now = [0.0]

    def note(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        timestep = kwargs["timestep"] if "timestep" in kwargs else args[1]
        now[0] = float(torch.as_tensor(timestep).flatten()[0]) * unit

    def hook_at(point: HookpointConfig) -> Any:
        def edit_output(_module: nn.Module, _args: Any, output: Any) -> Any:
            x = output if isinstance(output, Tensor) else output[0]
            flat = x.flatten(2).transpose(1, 2) if x.ndim == 4 else x
            new = edited(flat, now[0], point, coders[point.hookpoint])
            new = new.transpose(1, 2).reshape(x.shape) if x.ndim == 4 else new
            return new if isinstance(output, Tensor) else (new, *output[1:])

        return edit_output

    handles = [denoiser.register_forward_pre_hook(note, with_kwargs=True)]
    for point in config.hookpoints:
        block = denoiser.get_submodule(point.hookpoint.partition(".")[2])
        handles.append(block.register_forward_hook(hook_at(point)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
