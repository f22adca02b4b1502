"""What the registry hands out: frozen records, never database rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class ModelRecord:
    """A diffusion model. ``path`` is a folder below the registry folder, or a hub id or local path.

    ``files`` pins the model's files: path below ``path`` -> ``sha256:...``; empty for a model that does not ship.
    """

    name: str
    family: str
    path: str
    fingerprint: str
    resolution: int
    steps: int
    guidance: float
    scheduler: str
    files: Mapping[str, str] = field(default_factory=dict)
    licence: str = ""
    provenance: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SaeRecord:
    """A sparse autoencoder at one hookpoint of one model; ``path`` holds ``cfg.json`` and ``sae.safetensors``."""

    name: str
    model: str
    hookpoint: str
    path: str
    digest: str
    d_in: int
    num_latents: int
    k: int
    variant: str
    fvu: float
    dead_share: float
    l0: float
    provenance: dict[str, object]


@dataclass(frozen=True, slots=True)
class ConceptRecord:
    """A human-named thing to remove or keep."""

    name: str
    domain: str
    title: str
    description: str


@dataclass(frozen=True, slots=True)
class PromptSetRecord:
    """A prompt set that was used, pinned by digest; ``role`` is one of ``names.PROMPT_ROLES``."""

    name: str
    role: str
    model: str
    digest: str


@dataclass(frozen=True, slots=True)
class JudgeRecord:
    """A model that names what images show.

    ``kind``: ``clip`` or ``classifier``.  ``role``: ``calibration`` (settings may be chosen with it) or ``audit``
    (``verify`` judges with it, so no setting was ever chosen with it).  ``files`` as in ModelRecord.
    ``labels``: the concepts it tells apart, by domain.
    """

    name: str
    kind: str
    role: str
    path: str
    files: Mapping[str, str]
    labels: Mapping[str, tuple[str, ...]]
    provenance: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ScoringRun:
    """One run of statistics and scoring over anchor prompts, with everything needed to repeat it."""

    name: str
    sae: str
    method: str
    statistics_path: str
    statistics_digest: str
    timesteps: tuple[int, ...]
    """Calibrated scheduler timesteps, descending."""
    provenance: dict[str, object]


@dataclass(frozen=True, slots=True)
class FeatureScore:
    """One feature of one SAE for one concept at one timestep.

    ``mean``: mean latent on the concept's prompts over prompts and positions, zeros included.
    ``mean_others``: the same on the prompts of all other concepts; ``threshold``: mean over concepts of ``mean``.
    ``firing_rate``: share of positions of the concept's prompts at which the latent is above 0.
    ``rank``: 0 for the best score of this concept and timestep.
    """

    index: int
    timestep: int
    rank: int
    score: float
    mean: float
    mean_others: float
    threshold: float
    firing_rate: float


@dataclass(frozen=True, slots=True)
class SharedFeature:
    """A feature that is among the best of ``concept``, with its best score over the timesteps asked about."""

    index: int
    concept: str
    score: float


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """What calibration chose at one hookpoint: the ``features`` best features per timestep, times ``multiplier``."""

    sae: str
    run: str
    features: int
    multiplier: float


@dataclass(frozen=True, slots=True)
class Calibration:
    """The chosen operating points of one concept (one for each hookpoint used) and the figures behind the choice."""

    concept: str
    points: tuple[OperatingPoint, ...]
    figures: dict[str, float]
    provenance: dict[str, object]

    @property
    def setting(self) -> str:
        """The operating points in words, such as ``sae n=8 x-4``, joined by +."""
        return "+".join(f"{point.sae} n={point.features} x{point.multiplier:g}" for point in self.points)


@dataclass(frozen=True, slots=True)
class FeatureUse:
    """One score of a feature, with the run and the concept that it belongs to: the answer to "who uses it?"."""

    run: str
    concept: str
    score: FeatureScore
