"""How a block's output is laid out, and the way from there to (batch, pos, d_in) and back."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from saeuron_guard.errors import GuardNotEffective
from saeuron_guard.shapes import Activations

_SAMPLE = "sample"
"""The field that holds the activation in diffusers' output classes."""


def activation_of(output: Any, hookpoint: str) -> Tensor:
    """The one activation in a block's output: a tensor, a tuple with one, or a diffusers output with ``sample``.

    Raises GuardNotEffective for anything else, such as the two streams of SD3's and FLUX's blocks: editing the wrong
    tensor would look like working.
    """
    if isinstance(output, Tensor):
        return output
    if isinstance(output, tuple) and output and isinstance(output[0], Tensor) and set(output[1:]) <= {None}:
        return output[0]
    if dataclasses.is_dataclass(output) and [field.name for field in dataclasses.fields(output)] == [_SAMPLE]:
        sample = getattr(output, _SAMPLE)
        if isinstance(sample, Tensor):
            return sample
    raise GuardNotEffective(
        f"{hookpoint} gave {describe(output)}; expected one activation: a tensor, a tuple of one tensor, or an output "
        f"with the field {_SAMPLE!r}. Choose a hookpoint whose block has a single output."
    )


def with_activation(output: Any, activation: Tensor) -> Any:
    """``output`` with its activation replaced, in the same kind of container."""
    if isinstance(output, Tensor):
        return activation
    if isinstance(output, tuple):
        return (activation, *output[1:])
    return dataclasses.replace(output, **{_SAMPLE: activation})


def positions_of(activation: Tensor, d_in: int, hookpoint: str) -> Activations:
    """A map (batch, d_in, h, w) as (batch, h*w, d_in), row by row; tokens (batch, pos, d_in) as they are."""
    if activation.ndim == 4 and activation.shape[1] == d_in:
        return activation.flatten(2).transpose(1, 2)
    if activation.ndim == 3 and activation.shape[2] == d_in:
        return activation
    raise GuardNotEffective(
        f"{hookpoint} gave an activation of shape {tuple(activation.shape)}; expected (batch, {d_in}, height, width) "
        f"or (batch, positions, {d_in}). The guard's SAE belongs to another block or model."
    )


def from_positions(positions: Activations, activation: Tensor) -> Tensor:
    """The inverse of ``positions_of``; ``activation`` is the one that ``positions`` came from.

    In memory it lies as ``activation`` does: convolutions add up in another order for another layout, so that equal
    activations would give images that differ in their last bits.
    """
    if activation.ndim == 4:
        positions = positions.transpose(1, 2).reshape(activation.shape)
    if positions.stride() == activation.stride():
        return positions
    return torch.empty_like(activation).copy_(positions)


def describe(output: Any) -> str:
    """An output's structure in words, for messages."""
    if isinstance(output, Tensor):
        return f"a tensor {tuple(output.shape)}"
    if isinstance(output, tuple | list):
        return f"{type(output).__name__} of ({', '.join(describe(part) for part in output)})"
    return type(output).__name__
