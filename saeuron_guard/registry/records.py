"""What the registry hands out: frozen records, never database rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from saeuron_guard.names import feature_name

VERDICTS: Final = ("approved", "rejected", "quarantined")
"""What a review can say of a feature; the compiler takes none that is rejected or quarantined."""

Verdict = Literal["approved", "rejected", "quarantined"]


@dataclass(frozen=True, slots=True)
class ModelRecord:
    """A diffusion model. ``path`` is a folder below the registry folder, or a hub id or local path.

    ``files`` pins the model's files: path below ``path`` -> ``sha256:...``; empty for a model that does not ship.
    ``hookpoints``: the width (channels) of each hookpoint at which an SAE may sit, as far as it was measured.
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
    hookpoints: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SaeRecord:
    """A sparse autoencoder at one hookpoint of one model; ``path`` holds ``cfg.json`` and ``sae.safetensors``.

    ``fvu``, ``dead_share`` and ``l0`` are None where nobody measured them, as with an imported SAE: unknown is not 0.
    """

    name: str
    model: str
    hookpoint: str
    path: str
    digest: str
    d_in: int
    num_latents: int
    k: int
    variant: str
    fvu: float | None
    dead_share: float | None
    l0: float | None
    provenance: dict[str, object]


@dataclass(frozen=True, slots=True)
class ConceptRecord:
    """A human-named thing to remove or keep.

    ``aliases``: other words for it, which policies do not use.  ``parent``: the group that it belongs to, or "".
    A concept that others name as their parent is a group: it is not removed itself, its members are.
    """

    name: str
    domain: str
    title: str
    description: str
    aliases: tuple[str, ...] = ()
    parent: str = ""


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


@dataclass(frozen=True, slots=True)
class Review:
    """What somebody decided about feature ``index`` of an SAE.

    ``sae_digest``: of the SAE at that time; for an SAE of another digest the review does not count.
    ``when``: UTC as ``stamp.moment_text`` writes it.  ``page``: the feature's page as it was then, as JSON values, with
    numbers rounded as in the manifest; empty when nobody kept it.
    """

    sae: str
    index: int
    sae_digest: str
    verdict: Verdict
    by: str
    why: str
    when: str
    page: Mapping[str, object] = field(default_factory=dict)

    @property
    def feature(self) -> str:
        """The feature's name, ``sae:index``."""
        return feature_name(self.sae, self.index)

    @property
    def identity(self) -> tuple[str, ...]:
        """What tells two reviews apart: everything but the page."""
        return (self.sae, f"{self.index:07}", self.when, self.by, self.verdict, self.why, self.sae_digest)


@dataclass(frozen=True, slots=True)
class PolicyRecord:
    """A policy that was compiled or verified; ``by`` and ``when``: who recorded it first, and when (UTC)."""

    digest: str
    name: str
    version: str
    owner: str
    file: str
    by: str
    when: str


@dataclass(frozen=True, slots=True)
class GuardFeature:
    """A feature that a guard edits (or, at strength 0, watches) for ``concept``."""

    sae: str
    sae_digest: str
    index: int
    concept: str
    strength: float

    @property
    def feature(self) -> str:
        """The feature's name, ``sae:index``."""
        return feature_name(self.sae, self.index)


@dataclass(frozen=True, slots=True)
class GuardRecord:
    """A compiled policy; ``by`` and ``when``: who recorded it first, and when (UTC)."""

    digest: str
    policy_digest: str
    model: str
    fingerprint: str
    features: tuple[GuardFeature, ...]
    by: str
    when: str


@dataclass(frozen=True, slots=True)
class VerificationRecord:
    """One run of ``verify``: what it said, with what it judged, by whom and when (UTC)."""

    guard_digest: str
    policy_digest: str
    verdict: str
    exit_code: int
    judge: str
    judge_digest: str
    seeds: tuple[int, ...]
    images: int
    figures: Mapping[str, object]
    by: str
    when: str


@dataclass(frozen=True, slots=True)
class Event:
    """One change of the registry: a link of the chain that ``registry.events`` describes.

    ``seq`` counts from 1.  ``payload``: canonical JSON text.  ``previous``: the digest of the event before.
    """

    seq: int
    when: str
    by: str
    kind: str
    subject: str
    payload: str
    previous: str
    digest: str
