"""Everything that decides how autoencoders are trained, in one frozen value."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field

from saeuron_guard.digests import digest_of
from saeuron_guard.discovery.stream import Sampling

VARIANTS = ("unsupervised", "supervised")
"""Reconstruction alone / with one latent tied to each concept."""


@dataclass(frozen=True, slots=True)
class SaeRecipe:
    """How to train autoencoders on a pipeline's activations.

    ``seeds`` and ``held_out_seeds``: of the images to train on and to report on; they must not meet.
    ``batch_positions``: activation vectors a step; rounded down to whole maps.
    ``batch_topk``: share ``k`` over a batch in training; inference takes ``k`` at each position either way.
    ``reuse``: draws of a map before it is replaced; None: as many as spread one generation pass over all steps.
    ``dead_after``: positions without firing after which a latent counts as dead and the auxiliary loss revives it.
    """

    num_latents: int = 2048
    k: int = 32
    variant: str = "unsupervised"
    batch_topk: bool = False
    steps: int = 1500
    batch_positions: int = 4096
    learning_rate: float = 4e-4
    warm_up: int = 100
    auxiliary_weight: float = 1 / 32
    dead_after: int = 200_000
    assignment_weight: float = 0.1
    clip: float = 1.0
    seed: int = 0
    seeds: tuple[int, ...] = (0, 1)
    held_out_seeds: tuple[int, ...] = (1000,)
    held_out_positions: int = 1_000_000
    sampling: Sampling = field(default_factory=Sampling)
    buffer_mb: float = 256.0
    reuse: int | None = None
    checkpoint_every: int = 100

    def __post_init__(self) -> None:
        """Refuse what cannot be trained; raises ValueError."""
        if self.variant not in VARIANTS:
            raise ValueError(f"variant is {self.variant!r}; expected one of {', '.join(VARIANTS)}")
        if not 1 <= self.k <= self.num_latents:
            raise ValueError(f"k is {self.k}; expected 1 to num_latents, {self.num_latents}")
        if self.steps < 1:
            raise ValueError(f"steps is {self.steps}; expected at least 1")
        if both := set(self.seeds) & set(self.held_out_seeds):
            raise ValueError(f"seeds {sorted(both)} are both trained on and held out; give other held_out_seeds")

    @property
    def digest(self) -> str:
        """Pins every field."""
        return digest_of(asdict(self))
