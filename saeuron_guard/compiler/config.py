"""The compiled guard: a frozen hook configuration that people can read, diff and pin by digest."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class FeatureEdit:
    """How one feature is edited, over the calibrated timesteps of its hookpoint (tuples of equal length T).

    ``active[t]``: whether the feature is selected at timestep t; ``mean[t]``: mu(i, t, c); ``threshold[t]``: the latent
    above which it is edited, see ``names.THRESHOLDS``.  Both are 0 where the feature is not active.
    ``score`` is the best over the active timesteps and ``rank`` its rank there.
    """

    index: int
    score: float
    rank: int
    active: tuple[bool, ...]
    mean: tuple[float, ...]
    threshold: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Rule:
    """What is done for one concept at one hookpoint: x' = x + strength (multiplier mu z - z) W_dec on its features.

    A rule edits only with mode enforce, an action other than detect and a strength above 0; otherwise its features are
    watched: with mode enforce, action detect refuses images on which they fire at ``share`` of the positions or more;
    with mode warn such images are warned about.  ``features`` is empty when stronger rules edit all.
    """

    concept: str
    domain: str
    action: str
    mode: str
    severity: str
    share: float
    strength: float
    multiplier: float
    features: tuple[FeatureEdit, ...]
    why: str

    @property
    def applied(self) -> float:
        """The strength with which activations are edited: 0 for rules that only watch."""
        return self.strength if self.mode == "enforce" and self.action != "detect" else 0.0

    @property
    def refuses(self) -> bool:
        """Whether images on which the concept is present are refused."""
        return self.mode == "enforce" and self.action == "detect"


@dataclass(frozen=True, slots=True)
class HookpointConfig:
    """Everything that happens at one hookpoint with one SAE. ``timesteps`` are descending."""

    hookpoint: str
    sae: str
    sae_path: str
    sae_digest: str
    statistics_digest: str
    d_in: int
    num_latents: int
    k: int
    timesteps: tuple[int, ...]
    largest_gap: int
    rules: tuple[Rule, ...]


@dataclass(frozen=True, slots=True)
class Merge:
    """A feature that several rules chose at the same timesteps; there only the strongest, that of ``kept``, edits it.

    Rules of ``dropped`` may still edit it at timesteps that no stronger rule chose.
    """

    feature: str
    kept: str
    dropped: tuple[str, ...]
    why: str


@dataclass(frozen=True, slots=True)
class Collision:
    """A feature edited for ``concept`` that is also among the best features of ``retained``."""

    feature: str
    concept: str
    retained: str
    score: float


@dataclass(frozen=True, slots=True)
class AppliedWaiver:
    """A waiver under which the policy loosens what it extends.

    ``covers`` names the settings that are loosened, ``expires`` is the last day on which that may be.
    """

    what: str
    covers: tuple[str, ...]
    reason: str
    owner: str
    ticket: str
    expires: str


@dataclass(frozen=True, slots=True)
class GuardConfig:
    """A compiled policy. ``branches``: one of ``names.BRANCHES``; ``digest`` covers all other fields."""

    format: str
    policy_name: str
    policy_version: str
    policy_digest: str
    model: str
    model_fingerprint: str
    branches: str
    hookpoints: tuple[HookpointConfig, ...]
    merges: tuple[Merge, ...]
    collisions: tuple[Collision, ...]
    waivers: tuple[AppliedWaiver, ...]
    digest: str
