"""One autoencoder in training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from saeuron_guard.discovery.labels import ConceptTable
from saeuron_guard.discovery.objective import (
    assignment_loss,
    auxiliary_loss,
    batch_top_k,
    concept_directions,
    top_k,
    unexplained,
)
from saeuron_guard.discovery.recipe import SaeRecipe
from saeuron_guard.errors import CannotEvaluate
from saeuron_guard.sae.config import SparseCoderConfig
from saeuron_guard.sae.sparse_coder import SparseCoder


@dataclass(frozen=True, slots=True)
class StepFigures:
    """Of one training step: ``fvu`` and ``assignment`` losses, ``l0`` latents a position, ``dead`` latents now."""

    fvu: float
    assignment: float
    l0: float
    dead: int


class SaeTrainer:
    """Trains a TopK or BatchTopK autoencoder on raw activations.

    Inside, inputs are multiplied by one scalar, so that their mean norm is sqrt(d_in) and one learning rate suits every
    layer; ``coder`` folds the scalar back, so what is saved takes raw activations.
    Latent number n is tied to concept number n of ``table`` in the supervised variant.
    """

    def __init__(self, recipe: SaeRecipe, table: ConceptTable, sample: Tensor, codes: Tensor) -> None:
        """``sample`` (maps, pos, d_in) raw and ``codes`` (maps, domains): what scale, bias and tied latents start from.

        Raises CannotEvaluate when they are all zero, or when there are more concepts to tie than latents.
        """
        if recipe.variant == "supervised" and len(table.names) > recipe.num_latents:
            raise CannotEvaluate(f"{len(table.names)} concepts cannot be tied to {recipe.num_latents} latents")
        d_in = sample.shape[-1]
        norm = float(sample.norm(dim=-1).mean())
        if not norm > 0:
            raise CannotEvaluate("the activations are all zero; is the hookpoint in use?")
        self.recipe = recipe
        self.table = table
        self.scale = d_in**0.5 / norm
        self.steps_done = 0
        config = SparseCoderConfig(d_in, recipe.num_latents, recipe.k, batch_topk=recipe.batch_topk)
        self._coder = SparseCoder(config, generator=torch.Generator().manual_seed(recipe.seed))
        self._domains = tuple(table.members(domain) for domain in table.domains)
        self._initialise(sample, codes)
        self._optimiser = torch.optim.Adam(self._coder.parameters(), lr=recipe.learning_rate)
        self._silent = torch.zeros(recipe.num_latents, dtype=torch.int64)
        self._fire = batch_top_k if recipe.batch_topk else top_k

    def step(self, activations: Tensor, codes: Tensor) -> StepFigures:
        """Learn from raw ``activations`` (maps, pos, d_in) with ``codes`` (maps, domains)."""
        coder, recipe = self._coder, self.recipe
        inputs = (activations * self.scale).flatten(0, 1)
        pre_activations = coder.pre_activations(activations * self.scale)
        flat = pre_activations.flatten(0, 1)
        firing = self._fire(flat, recipe.k)
        error = inputs - firing.decode(coder.W_dec) - coder.b_dec
        fvu = unexplained(error, inputs)
        dead = self._silent >= recipe.dead_after
        assignment = self._assignment(pre_activations, codes)
        loss = (
            fvu
            + recipe.auxiliary_weight * auxiliary_loss(flat, dead, coder.W_dec, error, inputs)
            + recipe.assignment_weight * assignment
        )
        self._descend(loss)
        fired = firing.indices[firing.values.detach() > 0]
        self._silent += len(inputs)
        self._silent[fired] = 0
        self.steps_done += 1
        return StepFigures(float(fvu.detach()), float(assignment.detach()), len(fired) / len(inputs), int(dead.sum()))

    def coder(self) -> SparseCoder:
        """A frozen copy that takes raw activations.

        With s the scale, SAE_s(s x) / s = SAE(x) when both biases are divided by s: ReLU and the choice of the k
        largest do not change when all pre-activations are divided by the same positive number, and latents come out
        as z / s. The weights stay.
        """
        folded = SparseCoder(self._coder.config)
        state = {name: tensor.detach().clone() for name, tensor in self._coder.state_dict().items()}
        for bias in ("encoder.bias", "b_dec"):
            state[bias] /= self.scale
        folded.load_state_dict(state)
        return folded.requires_grad_(False)

    def state(self) -> dict[str, Tensor]:
        """Everything that ``restore`` needs to go on as if nothing had happened."""
        found = {f"coder/{name}": tensor.detach() for name, tensor in self._coder.state_dict().items()}
        for number, moments in self._optimiser.state_dict()["state"].items():
            found |= {f"adam/{number}/{name}": tensor for name, tensor in moments.items()}
        found["silent"] = self._silent
        found["scale"] = torch.tensor(self.scale, dtype=torch.float64)
        found["steps_done"] = torch.tensor(self.steps_done)
        return found

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take over what ``state`` gave, of a trainer with the same recipe."""
        self._coder.load_state_dict(
            {name.removeprefix("coder/"): tensor for name, tensor in state.items() if name.startswith("coder/")}
        )
        moments: dict[int, dict[str, Tensor]] = {}
        for name, tensor in state.items():
            if name.startswith("adam/"):
                _, number, key = name.split("/")
                moments.setdefault(int(number), {})[key] = tensor
        groups = self._optimiser.state_dict()["param_groups"]
        self._optimiser.load_state_dict({"state": moments, "param_groups": groups})
        self._silent = state["silent"].clone()
        self.scale = float(state["scale"])
        self.steps_done = int(state["steps_done"])

    @torch.no_grad()
    def _initialise(self, sample: Tensor, codes: Tensor) -> None:
        coder = self._coder
        coder.b_dec.copy_(sample.flatten(0, 1).mean(0) * self.scale)
        if self.recipe.variant == "supervised":
            # From a random start another latent may take the concept over before the loss has turned the tied one to
            # it; SAEmnesia meets this by starting from a trained autoencoder.
            for concept, direction in concept_directions(sample.mean(1), codes, self._domains).items():
                coder.W_dec[concept] = direction
        # Latents that read what they write reconstruct from the first step on (arXiv 2406.04093, appendix A.1).
        coder.encoder.weight.copy_(coder.W_dec)

    def _assignment(self, pre_activations: Tensor, codes: Tensor) -> Tensor:
        if self.recipe.variant != "supervised":
            return pre_activations.new_zeros(())
        return assignment_loss(pre_activations[..., : len(self.table.names)], codes, self._domains)

    def _descend(self, loss: Tensor) -> None:
        decoder = self._coder.W_dec
        for group in self._optimiser.param_groups:
            group["lr"] = self.recipe.learning_rate * self._pace()
        self._optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        if decoder.grad is not None:
            # Along a row only its length would change, which the normalisation below undoes; Adam's moments would not.
            along = (decoder.grad * decoder.detach()).sum(1, keepdim=True)
            decoder.grad -= along * decoder.detach()
        torch.nn.utils.clip_grad_norm_(self._coder.parameters(), self.recipe.clip)
        self._optimiser.step()
        self._coder.normalise_decoder()

    def _pace(self) -> float:
        """Share of the learning rate at this step: linear warm-up, then linear decay towards 0."""
        recipe, step = self.recipe, self.steps_done
        warm_up = min(recipe.warm_up, recipe.steps // 10)
        if step < warm_up:
            return (step + 1) / (warm_up + 1)
        return (recipe.steps - step) / (recipe.steps - warm_up)
