"""A policy as the rest of the program sees it: validated and frozen."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Place:
    """Where in a file something was written; counts from 1."""

    file: str
    line: int
    column: int


@dataclass(frozen=True, slots=True)
class ConceptRule:
    """Remove ``concept``.

    ``strength``: 0 leaves alone, 1 is the calibrated operating point.
    ``multiplier`` (gamma) and ``max_features`` are the expert's override of the calibration, else None.
    ``removal``: least share of target images from which the concept must be gone.
    """

    concept: str
    strength: float
    multiplier: float | None
    max_features: int | None
    removal: float
    place: Place


@dataclass(frozen=True, slots=True)
class Retain:
    """What must stay unharmed: all concepts of ``domains`` and each of ``concepts``, up to ``max_loss`` accuracy."""

    domains: tuple[str, ...]
    concepts: tuple[str, ...]
    max_loss: float
    place: Place


@dataclass(frozen=True, slots=True)
class Audit:
    """How ``verify`` judges the policy: the prompt set's name or path, the seeds, and the least n per concept."""

    prompts: str
    seeds: tuple[int, ...]
    minimum_n: int
    place: Place


@dataclass(frozen=True, slots=True)
class Policy:
    """A whole policy. ``digest`` covers its meaning, not comments, layout or file name.

    ``branches``: which branches of classifier-free guidance are edited, one of ``names.BRANCHES``;
    ``threshold``: above which latent a feature is edited, one of ``names.THRESHOLDS``.
    """

    name: str
    version: str
    owner: str
    description: str
    model: str
    branches: str
    threshold: str
    concepts: tuple[ConceptRule, ...]
    retain: Retain
    audit: Audit
    digest: str
    file: str
    model_place: Place
