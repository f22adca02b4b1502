"""The trainer on activations whose dictionary is known."""

from __future__ import annotations

import pytest
import torch

from saeuron_guard.discovery.evaluation import HeldOutFigures, evaluate
from saeuron_guard.discovery.recipe import SaeRecipe
from saeuron_guard.discovery.stream import StepActivations
from saeuron_guard.discovery.trainer import SaeTrainer
from saeuron_guard.errors import CannotEvaluate
from saeuron_guard.prompts.model import Prompt
from tests.discovery import planted

STEPS = 1200


def _recipe(**changes: object) -> SaeRecipe:
    fields = {
        "num_latents": 40, "k": 5, "steps": STEPS, "learning_rate": 4e-3, "warm_up": 20, "dead_after": 5_000,
    }  # fmt: skip
    return SaeRecipe(**(fields | changes))  # type: ignore[arg-type]


def _trained(recipe: SaeRecipe, *, scale: float = 1.0, steps: int = STEPS) -> SaeTrainer:
    generator = torch.Generator().manual_seed(21)
    trainer = SaeTrainer(recipe, planted.TABLE, *planted.maps(256, generator, scale=scale))
    for _ in range(steps):
        trainer.step(*planted.maps(64, generator, scale=scale))
    return trainer


def _held_out(trainer: SaeTrainer) -> HeldOutFigures:
    activations, _ = planted.maps(500, torch.Generator().manual_seed(99))
    prompts = (Prompt("p", "p", ()),) * 500
    step = StepActivations(1, prompts, (0,) * 500, {"hook": activations})
    return evaluate([step], {"hook": trainer.coder()}, 10_000)["hook"]


def _best_matches(trainer: SaeTrainer) -> torch.Tensor:
    """For each planted direction the largest cosine with a decoder row."""
    return (planted.dictionary() @ trainer.coder().W_dec.T).max(1).values


@pytest.fixture(scope="module")
def unsupervised() -> SaeTrainer:
    """A trained coder without labels."""
    return _trained(_recipe())


@pytest.fixture(scope="module")
def supervised() -> SaeTrainer:
    """A trained coder with the assignment loss."""
    return _trained(_recipe(variant="supervised"))


def test_training_recovers_a_planted_dictionary(unsupervised: SaeTrainer) -> None:
    """Nearly every planted direction is a decoder row after training, and few are before."""
    untrained = _trained(_recipe(), steps=0)
    assert (_best_matches(untrained) > 0.9).float().mean() < 0.2
    assert (_best_matches(unsupervised) > 0.9).float().mean() > 0.9
    assert _held_out(untrained).fvu > 0.4
    assert _held_out(unsupervised).fvu < 0.1


def test_batch_top_k_recovers_the_dictionary_too() -> None:
    """BatchTopK training finds the dictionary and says so in the configuration; inference takes k a position."""
    trainer = _trained(_recipe(batch_topk=True))
    assert (_best_matches(trainer) > 0.9).float().mean() > 0.7
    coder = trainer.coder()
    assert coder.config.batch_topk
    latents = coder.encode(planted.maps(50, torch.Generator().manual_seed(1))[0])
    assert (latents > 0).sum(-1).max() <= 5


def test_decoder_rows_have_unit_norm(unsupervised: SaeTrainer) -> None:
    """Every row of W_dec has norm 1 after training."""
    assert torch.allclose(unsupervised.coder().W_dec.norm(dim=1), torch.ones(40), atol=1e-5)


def test_folding_the_scale_back_is_exact(unsupervised: SaeTrainer) -> None:
    """On raw activations the saved coder gives the inner coder's latents and reconstructions divided by the scale."""
    activations, _ = planted.maps(100, torch.Generator().manual_seed(5))
    inner, scale = unsupervised._coder, unsupervised.scale
    assert abs(scale - 1) > 0.01
    coder = unsupervised.coder()
    latents = inner.encode(activations * scale)
    assert torch.allclose(coder.encode(activations), latents / scale, rtol=1e-4, atol=1e-5)
    assert torch.allclose(coder(activations), inner.decode(latents) / scale, rtol=1e-4, atol=1e-5)
    assert torch.equal(coder.W_dec, inner.W_dec)
    assert torch.equal(coder.encoder.weight, inner.encoder.weight)


def test_training_does_not_depend_on_the_size_of_the_activations() -> None:
    """Activations a thousand times larger give the same decoder: the inner scale takes the difference out."""
    small, large = (_trained(_recipe(), scale=scale, steps=30) for scale in (1.0, 1024.0))
    assert torch.allclose(small.coder().W_dec, large.coder().W_dec, atol=1e-3)
    assert not torch.allclose(small.coder().b_dec, large.coder().b_dec, atol=1e-3)


def _tied_accuracy(trainer: SaeTrainer) -> float:
    """How often the image's own concept has the largest mean latent among the tied ones of its domain."""
    activations, codes = planted.maps(400, torch.Generator().manual_seed(7))
    latents = trainer.coder().encode(activations).mean(1)
    right = [
        latents[:, members].argmax(1) + members.start == codes[:, column]
        for column, members in enumerate(map(planted.TABLE.members, planted.TABLE.domains))
    ]
    return float(torch.cat(right).float().mean())


def test_supervision_ties_one_latent_to_each_concept(unsupervised: SaeTrainer, supervised: SaeTrainer) -> None:
    """With the assignment loss the tied latents tell each image's concepts; without it they do not."""
    assert _tied_accuracy(supervised) > 0.95
    assert _tied_accuracy(unsupervised) < 0.7


def test_supervised_latents_also_write_their_concepts_direction(supervised: SaeTrainer) -> None:
    """A tied latent's decoder row is its concept's planted direction, and reconstruction stays good."""
    cosines = (supervised.coder().W_dec[:5] * planted.dictionary()[:5]).sum(1)
    assert cosines.min() > 0.95
    assert _held_out(supervised).fvu < 0.1


def test_restored_training_ends_with_the_same_weights() -> None:
    """Stopping after 20 steps and going on from the state gives bit for bit the weights of an uninterrupted run."""
    batches = [planted.maps(64, torch.Generator().manual_seed(seed)) for seed in range(40)]
    recipe = _recipe(steps=40, variant="supervised", dead_after=500)

    def fresh() -> SaeTrainer:
        return SaeTrainer(recipe, planted.TABLE, *batches[0])

    whole, first, second = fresh(), fresh(), fresh()
    for batch in batches:
        whole.step(*batch)
    for batch in batches[:20]:
        first.step(*batch)
    second.restore({name: tensor.clone() for name, tensor in first.state().items()})
    for batch in batches[20:]:
        second.step(*batch)
    for name, tensor in whole.coder().state_dict().items():
        assert torch.equal(tensor, second.coder().state_dict()[name]), name
        assert not torch.equal(tensor, first.coder().state_dict()[name]), name


def test_dead_latents_are_revived() -> None:
    """Latents pushed out of the top k come back with the auxiliary loss and mostly stay dead without it."""
    dead = {}
    for weight in (0.0, 1 / 32):
        generator = torch.Generator().manual_seed(3)
        trainer = SaeTrainer(_recipe(auxiliary_weight=weight, steps=200), planted.TABLE, *planted.maps(99, generator))
        with torch.no_grad():
            trainer._coder.encoder.bias[10:30] = -1.2
        for _ in range(200):
            trainer.step(*planted.maps(64, generator))
        dead[weight] = _held_out(trainer).dead_share
    assert dead[0.0] > 0.4
    assert dead[1 / 32] < 0.25


def test_impossible_trainings_are_refused() -> None:
    """Silent activations, more concepts than latents, and unsound recipes have a message each."""
    with pytest.raises(CannotEvaluate, match="all zero"):
        SaeTrainer(_recipe(), planted.TABLE, torch.zeros(4, 8, 24), torch.zeros(4, 2))
    with pytest.raises(CannotEvaluate, match="5 concepts"):
        SaeTrainer(
            _recipe(variant="supervised", num_latents=4, k=2), planted.TABLE, torch.ones(4, 8, 24), torch.zeros(4, 2)
        )
    for changes in ({"variant": "sup"}, {"k": 41}, {"steps": 0}, {"held_out_seeds": (0,)}):
        with pytest.raises(ValueError, match=r"expected|held out"):
            _recipe(**changes)
