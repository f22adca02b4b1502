"""The mixing buffer."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from saeuron_guard.discovery.buffer import MEBIBYTE, ActivationBuffer
from saeuron_guard.discovery.labels import ConceptTable
from saeuron_guard.discovery.stream import StepActivations
from saeuron_guard.errors import CannotEvaluate
from saeuron_guard.prompts.model import Prompt

PROMPTS = tuple(Prompt(str(number), "", (("object", f"o{number % 4}"),)) for number in range(8))
TABLE = ConceptTable.of(PROMPTS)
POSITIONS = {"a": 4, "b": 2}
EACH = sum(POSITIONS.values()) * 16 * 4
"""Bytes of one map at both hookpoints."""


def _source(steps: int) -> Iterator[StepActivations]:
    """Maps whose every value is their own serial number, the same at both hookpoints."""
    for step in range(steps):
        serial = torch.arange(8, dtype=torch.float32) + 8 * step
        maps = {name: serial[:, None, None].expand(8, pos, 16).clone() for name, pos in POSITIONS.items()}
        yield StepActivations(step, PROMPTS, (0,) * 8, maps)


def _buffer(steps: int, capacity: int, reuse: int, seed: int = 0) -> ActivationBuffer:
    limit = capacity * EACH / MEBIBYTE
    return ActivationBuffer(_source(steps), TABLE, limit_mb=limit, reuse=reuse, seed=seed)


def test_memory_stays_within_the_limit() -> None:
    """However much the source gives, storage never exceeds the limit, and it is used up to the last whole map."""
    buffer = _buffer(steps=100, capacity=40, reuse=1)
    for _ in range(60):
        buffer.draw(10)
        assert buffer.nbytes == 40 * EACH
        assert buffer.held <= 40


def test_hookpoints_and_labels_stay_together() -> None:
    """A drawn row is the same image and step at every hookpoint, with that image's concept."""
    batch = _buffer(steps=10, capacity=40, reuse=2).draw(20)
    serial = batch.activations["a"][:, 0, 0]
    assert batch.activations["a"].shape == (20, 4, 16)
    assert batch.activations["b"].shape == (20, 2, 16)
    assert torch.equal(batch.activations["b"][:, 1, 5], serial)
    assert torch.equal(batch.codes[:, 0], serial.long() % 4)


def test_every_map_is_used_reuse_times_before_it_goes() -> None:
    """While the source lasts, no map is drawn more than reuse times, and replaced ones were drawn that often."""
    buffer = _buffer(steps=50, capacity=40, reuse=3)
    uses = np.zeros(400, dtype=int)
    for _ in range(90):
        serials = buffer.draw(10).activations["a"][:, 0, 0].long().numpy()
        assert len(set(serials)) == 10
        uses[serials] += 1
    assert not buffer.exhausted
    assert uses.max() == 3
    assert (uses == 3).sum() >= buffer.received - 40


def test_draws_mix_images_and_steps() -> None:
    """A batch does not follow the source's order: it spans far more than its own length of the stream."""
    serials = _buffer(steps=50, capacity=200, reuse=2).draw(16).activations["a"][:, 0, 0]
    assert serials.max() - serials.min() > 100


def test_an_ended_source_is_drawn_from_for_as_long_as_wanted() -> None:
    """After the end of the source the remaining maps go on being used, also beyond reuse."""
    buffer = _buffer(steps=3, capacity=40, reuse=1)
    for _ in range(30):
        assert len(buffer.draw(10).codes) == 10
    assert buffer.exhausted
    assert buffer.received == 24


def test_skipping_equals_drawing() -> None:
    """A buffer that skipped n draws goes on as one that made them, and not as a fresh one."""
    drawn, skipped, fresh = (_buffer(steps=50, capacity=40, reuse=2, seed=5) for _ in range(3))
    for _ in range(25):
        drawn.draw(7)
        skipped.skip(7)
    expected = drawn.draw(7).activations["a"]
    assert torch.equal(skipped.draw(7).activations["a"], expected)
    assert not torch.equal(fresh.draw(7).activations["a"], expected)


def test_what_cannot_be_drawn_is_refused() -> None:
    """An empty source, a batch larger than the buffer, and a limit below one map each have a message of their own."""
    with pytest.raises(CannotEvaluate, match="no activations"):
        _buffer(steps=0, capacity=40, reuse=1).draw(4)
    with pytest.raises(CannotEvaluate, match="holds 20"):
        _buffer(steps=9, capacity=20, reuse=1).draw(21)
    with pytest.raises(CannotEvaluate, match="enlarge"):
        _buffer(steps=9, capacity=0, reuse=1).draw(1)
    with pytest.raises(ValueError, match="reuse"):
        _buffer(steps=9, capacity=20, reuse=0)
