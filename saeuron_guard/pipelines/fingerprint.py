"""Tells which model a pipeline holds, whatever dtype or device its weights are on."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch import nn

from saeuron_guard.digests import digest_of
from saeuron_guard.errors import ModelMismatch

_COMPONENTS = ("transformer", "transformer_2", "unet", "vae")
_TEXT_ENCODER = "text_encoder"
_SAMPLES = 512
"""Weights looked at in each tensor, evenly spread; a whole SD 1.5 takes well under a second."""


def fingerprint(pipe: Any) -> str:
    """``sha256:...`` over denoiser, text encoders and VAE: classes, parameter names, shapes, weights' signs.

    Signs, because they are the part of a number that every move between float32, float16 and bfloat16 keeps: rounded
    values don't (float32 to float16 to bfloat16 rounds twice, and differs from float32 to bfloat16 at one weight in
    sixteen), and a model must keep its name when it is loaded in half precision.
    Weights of another model agree in half of thousands of signs; fine-tuning turns those of the weights near zero.

    Raises ModelMismatch when a component's weights are not in memory (sequential offload leaves none to look at).
    """
    parts = {
        name: _describe(name, component)
        for name, component in sorted(pipe.components.items())
        if isinstance(component, nn.Module) and (name in _COMPONENTS or name.startswith(_TEXT_ENCODER))
    }
    if not parts:
        raise ModelMismatch(f"{type(pipe).__name__} has no denoiser, text encoder or VAE to tell the model by")
    return digest_of(parts)


def _describe(name: str, component: nn.Module) -> list[Any]:
    module = getattr(component, "_orig_mod", component)  # what torch.compile wrapped
    tensors = [_sample(f"{name}.{key}", tensor) for key, tensor in sorted(module.named_parameters())]
    return [type(module).__name__, tensors]


def _sample(name: str, tensor: torch.Tensor) -> list[Any]:
    if tensor.is_meta:
        raise ModelMismatch(
            f"{name} is not in memory, so the model cannot be told; attach the guard before enabling sequential offload"
        )
    step = max(1, tensor.numel() // _SAMPLES)
    signs = torch.signbit(tensor.detach().flatten()[::step][:_SAMPLES]).to(torch.uint8).cpu()
    return [name, list(tensor.shape), hashlib.sha256(signs.numpy().tobytes()).hexdigest()]
