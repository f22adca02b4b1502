"""From a block's output to positions and back, whatever it comes in; and a refusal where it isn't clear."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers.models.modeling_outputs import Transformer2DModelOutput

from saeuron_guard.errors import GuardNotEffective
from saeuron_guard.guard.layout import activation_of, from_positions, positions_of, with_activation


@pytest.mark.parametrize("shape", [(2, 6, 3, 5), (1, 6, 8, 8), (2, 15, 6)])
def test_positions_and_back(shape: tuple[int, ...]) -> None:
    """Maps, also those that aren't square, and tokens come back bit for bit; position p of a map is (p // w, p % w)."""
    activation = torch.randn(shape)
    positions = positions_of(activation, 6, "unet.x")
    assert positions.shape == (shape[0], 15 if len(shape) == 3 else shape[2] * shape[3], 6)
    assert torch.equal(from_positions(positions.clone(), activation), activation)
    if len(shape) == 4:
        assert torch.equal(positions[0, shape[3] + 2], activation[0, :, 1, 2])


def test_channels_last_stays_channels_last() -> None:
    """A map's memory format survives the way there and back."""
    activation = torch.randn(2, 6, 3, 5).contiguous(memory_format=torch.channels_last)
    back = from_positions(positions_of(activation, 6, "unet.x").clone(), activation)
    assert back.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("shape", [(2, 6, 3, 5), (2, 15, 6)])
def test_rows_of_pixels_stay_rows_of_pixels(shape: tuple[int, ...]) -> None:
    """Contiguous activations come back contiguous, however the positions lie: convolutions then add up as before."""
    activation = torch.randn(shape)
    positions = positions_of(activation, 6, "unet.x")
    for copied in (positions.contiguous(), positions.transpose(1, 2).contiguous().transpose(1, 2)):
        back = from_positions(copied, activation)
        assert back.stride() == activation.stride()
        assert torch.equal(back, activation)


@pytest.mark.parametrize("container", [lambda x: x, lambda x: (x,), lambda x: (x, None), Transformer2DModelOutput])
def test_containers_are_kept(container: Any) -> None:
    """Tensor, tuple and diffusers output come back in kind, with the new activation in the old one's place."""
    before, after = torch.zeros(1, 6, 2, 2), torch.ones(1, 6, 2, 2)
    output = container(before)
    replaced = with_activation(output, after)
    assert activation_of(output, "unet.x") is before
    assert activation_of(replaced, "unet.x") is after
    assert type(replaced) is type(output)


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ((torch.zeros(1, 4, 6), torch.zeros(1, 9, 6)), r"tuple of \(a tensor \(1, 4, 6\), a tensor \(1, 9, 6\)\)"),
        ((torch.zeros(1, 4, 6), (torch.zeros(1),)), "expected one activation"),
        ({"sample": torch.zeros(1, 4, 6)}, "gave dict"),
        (None, "gave NoneType"),
    ],
)
def test_outputs_that_could_mean_anything_are_refused(output: Any, message: str) -> None:
    """Two streams, states beside the activation, and unknown containers: refused, never guessed."""
    with pytest.raises(GuardNotEffective, match=message):
        activation_of(output, "unet.x")


@pytest.mark.parametrize("shape", [(1, 5, 2, 2), (1, 4, 5), (4, 6), (1, 6, 2, 2, 2)])
def test_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    """Another number of channels or of axes is another block or model."""
    with pytest.raises(GuardNotEffective, match="expected \\(batch, 6, height, width\\)"):
        positions_of(torch.zeros(shape), 6, "unet.x")
