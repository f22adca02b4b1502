"""Firing rules and losses of the trainer."""

from __future__ import annotations

import math

import torch
from torch.nn import functional

from saeuron_guard.discovery.objective import (
    Firing,
    assignment_loss,
    auxiliary_loss,
    batch_top_k,
    concept_directions,
    top_k,
    unexplained,
)


def _dense(firing: Firing, latents: int) -> torch.Tensor:
    """Latents as (positions, latents), by decoding with the identity."""
    return firing.decode(torch.eye(latents))


def test_top_k_keeps_the_k_largest_of_each_position() -> None:
    """TopK fires at most k latents a position, the largest, and never a negative one."""
    pre = torch.tensor([[3.0, 1.0, 2.0, -1.0], [-3.0, -1.0, 0.5, -2.0]])
    expected = torch.tensor([[3.0, 0.0, 2.0, 0.0], [0.0, 0.0, 0.5, 0.0]])
    assert torch.equal(_dense(top_k(pre, 2), 4), expected)


def test_batch_top_k_shares_k_over_the_batch() -> None:
    """BatchTopK lets a rich position take the share of a poor one; TopK does not."""
    pre = torch.tensor([[3.0, 1.0, 2.0, 1.5], [-3.0, -1.0, 0.5, -2.0]])
    expected = torch.tensor([[3.0, 1.0, 2.0, 1.5], [0.0, 0.0, 0.0, 0.0]])
    assert torch.equal(_dense(batch_top_k(pre, 2), 4), expected)
    assert not torch.equal(_dense(top_k(pre, 2), 4), expected)


def test_batch_top_k_fires_exactly_its_budget() -> None:
    """Without ties, BatchTopK fires positions * k latents, or all positive ones when they are fewer."""
    pre = torch.randn(50, 40, generator=torch.Generator().manual_seed(1))
    assert len(batch_top_k(pre, 7).values) == 350
    assert len(batch_top_k(pre, 40).values) == int((pre > 0).sum())


def test_sparse_decode_equals_the_dense_product() -> None:
    """Decoding firing latents equals z W_dec, values and gradients, also at positions where nothing fires."""
    generator = torch.Generator().manual_seed(2)
    pre = torch.randn(6, 9, generator=generator)
    pre[2] = -1.0
    for fire in (top_k, batch_top_k):
        sparse, dense = (
            torch.nn.Parameter(torch.randn(9, 5, generator=torch.Generator().manual_seed(3))) for _ in "ab"
        )
        firing = fire(pre, 3)
        latents = _dense(firing, 9)
        assert int((latents[2] != 0).sum()) == 0
        assert torch.allclose(firing.decode(sparse), latents @ dense, atol=1e-6)
        firing.decode(sparse).square().sum().backward()
        (latents @ dense).square().sum().backward()
        assert sparse.grad is not None
        assert dense.grad is not None
        assert torch.allclose(sparse.grad, dense.grad, atol=1e-5)


def test_unexplained_is_zero_for_a_perfect_and_one_for_a_mean_reconstruction() -> None:
    """The fvu is 0 when nothing is left over and 1 when only the mean is explained."""
    inputs = torch.randn(30, 4, generator=torch.Generator().manual_seed(4)) + 3
    assert unexplained(torch.zeros_like(inputs), inputs).item() == 0
    assert math.isclose(unexplained(inputs - inputs.mean(0), inputs).item(), 1, rel_tol=1e-5)


def test_auxiliary_loss_moves_dead_latents_only() -> None:
    """The auxiliary loss gives gradients to dead latents' pre-activations and to no live one's; none dead, no loss."""
    generator = torch.Generator().manual_seed(5)
    pre = torch.randn(8, 6, generator=generator).requires_grad_()
    error, inputs, decoder = (torch.randn(*shape, generator=generator) for shape in ((8, 4), (8, 4), (6, 4)))
    dead = torch.tensor([True, False, False, True, False, False])
    auxiliary_loss(pre, dead, decoder, error, inputs).backward()
    assert pre.grad is not None
    assert (pre.grad[:, ~dead] == 0).all()
    assert (pre.grad[:, dead] != 0).any()
    assert auxiliary_loss(pre, torch.zeros(6, dtype=torch.bool), decoder, error, inputs).item() == 0


def test_assignment_loss_is_the_mean_of_each_domains_cross_entropy() -> None:
    """The loss equals cross-entropies by hand, per domain, over labelled images; unlabelled ones do not count."""
    tied = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(6))
    codes = torch.tensor([[0, 3], [1, -1], [-1, -1]])
    logits = tied.relu().mean(1)
    first = functional.cross_entropy(logits[:2, :3], torch.tensor([0, 1]))
    second = functional.cross_entropy(logits[:1, 3:], torch.tensor([0]))
    loss = assignment_loss(tied, codes, (slice(0, 3), slice(3, 5)))
    assert torch.allclose(loss, (first + second) / 2)
    assert assignment_loss(tied, torch.full((3, 2), -1), (slice(0, 3), slice(3, 5))).item() == 0


def test_concept_directions_point_from_the_other_concepts() -> None:
    """A direction is the unit difference of means within the domain; without others or samples there is none."""
    vectors = torch.tensor([[2.0, 0.0], [0.0, 0.0], [0.0, 4.0], [9.0, 9.0]])
    codes = torch.tensor([[0, 3], [1, 3], [1, 3], [-1, 3]])
    found = concept_directions(vectors, codes, (slice(0, 3), slice(3, 4)))
    assert sorted(found) == [0, 1]
    assert torch.allclose(found[0], torch.tensor([2.0, -2.0]) / 8**0.5)
    assert torch.allclose(found[1], -found[0])
