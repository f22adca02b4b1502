"""The pure functions of training: which latents fire, and what an autoencoder is asked to minimise."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from saeuron_guard.discovery.labels import UNLABELLED


@dataclass(frozen=True, slots=True)
class Firing:
    """Latents that fire, position after position: ``indices`` and ``values`` (n,), ``offsets`` (positions,)."""

    indices: Tensor
    values: Tensor
    offsets: Tensor

    def decode(self, decoder: Tensor) -> Tensor:
        """``z W_dec`` (positions, d_in) without ever holding z densely; ``decoder`` is (num_latents, d_in).

        A tenth of a dense product's time at 32 of 2,048 latents.
        """
        return functional.embedding_bag(self.indices, decoder, self.offsets, mode="sum", per_sample_weights=self.values)


def top_k(pre_activations: Tensor, k: int) -> Firing:
    """The ``k`` largest of ReLU(``pre_activations``) (positions, num_latents) at each position."""
    values, indices = pre_activations.relu().topk(k, dim=-1, sorted=False)
    offsets = torch.arange(0, indices.numel(), k, device=indices.device)
    return Firing(indices.flatten(), values.flatten(), offsets)


def batch_top_k(pre_activations: Tensor, k: int) -> Firing:
    """The ``positions * k`` largest positive of ``pre_activations`` (positions, num_latents) of the whole batch.

    Implements BatchTopK, arXiv 2412.06410: a rich position may take more latents than a plain one.
    Ties at the threshold all fire.
    """
    positions = len(pre_activations)
    candidates = pre_activations.detach().flatten()
    candidates = candidates[candidates > 0]
    mask = pre_activations > 0
    if candidates.numel() > positions * k:
        mask &= pre_activations >= candidates.kthvalue(candidates.numel() - positions * k + 1).values
    rows, indices = mask.nonzero(as_tuple=True)
    counts = torch.bincount(rows, minlength=positions)
    return Firing(indices, pre_activations[rows, indices], counts.cumsum(0) - counts)


def unexplained(error: Tensor, inputs: Tensor) -> Tensor:
    """Fraction of variance unexplained (fvu), a scalar: |error|^2 / |inputs - mean|^2; both (positions, d_in)."""
    return error.square().sum() / (inputs - inputs.mean(0)).square().sum().clamp_min(1e-12)


def auxiliary_loss(pre_activations: Tensor, dead: Tensor, decoder: Tensor, error: Tensor, inputs: Tensor) -> Tensor:
    """Let latents that ``dead`` (num_latents,) marks explain the ``error`` that the live ones left; a scalar.

    Implements AuxK of arXiv 2406.04093, section A.2, with d_in / 2 latents and, as EleutherAI/sparsify does,
    scaled down while fewer than that many are dead.
    """
    (places,) = dead.nonzero(as_tuple=True)
    wanted = decoder.shape[1] // 2
    count = min(wanted, len(places))
    if not count:
        return error.new_zeros(())
    firing = top_k(pre_activations[:, places], count)
    explained = Firing(places[firing.indices], firing.values, firing.offsets).decode(decoder)
    return count / wanted * unexplained(explained - error.detach(), inputs)


def concept_directions(vectors: Tensor, codes: Tensor, domains: tuple[slice, ...]) -> dict[int, Tensor]:
    """Unit vectors from the other concepts of a domain to each concept, by concept number.

    ``vectors`` (maps, d_in): mean activation of each map; ``codes`` (maps, domains).
    Left out: concepts of which there is no map, or nothing but its maps.
    """
    found = {}
    for column, members in enumerate(domains):
        for concept in range(members.start, members.stop):
            ours = codes[:, column] == concept
            others = (codes[:, column] != UNLABELLED) & ~ours
            if ours.any() and others.any():
                found[concept] = functional.normalize(vectors[ours].mean(0) - vectors[others].mean(0), dim=0)
    return found


def assignment_loss(tied: Tensor, codes: Tensor, domains: tuple[slice, ...]) -> Tensor:
    """Cross-entropy that ties a latent to each concept; a scalar, the mean over domains.

    ``tied`` (maps, pos, concepts): pre-activations of the tied latents; ``codes`` (maps, domains): concept numbers or
    ``UNLABELLED``; ``domains``: each domain's concept numbers.
    After the concept-assignment loss of SAEmnesia, arXiv 2509.21379; deviates: the label is the whole image's, so the
    logits are means over its positions, and each domain has a softmax of its own.
    The logits come after ReLU: a softmax over pre-activations is content with a latent that is least negative on its
    concept and never fires.
    """
    logits = tied.relu().mean(1)
    losses = []
    for column, members in enumerate(domains):
        labelled = codes[:, column] != UNLABELLED
        if labelled.any():
            targets = codes[labelled, column] - members.start
            losses.append(functional.cross_entropy(logits[labelled, members], targets))
    return torch.stack(losses).mean() if losses else tied.new_zeros(())
