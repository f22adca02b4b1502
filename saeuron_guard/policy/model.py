"""A policy as the rest of the program sees it: its bases merged in, validated and frozen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import Literal

from saeuron_guard.errors import Problem
from saeuron_guard.names import ACTIONS, BRANCHES, CONFIDENCE, MODES, PRESENT_SHARE, SEVERITIES, STATUSES, THRESHOLDS


@dataclass(frozen=True, slots=True)
class Place:
    """Where in a file something was written; counts from 1."""

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        """As in messages: file:line:column."""
        return f"{self.file}:{self.line}:{self.column}"

    def problem(self, message: str) -> Problem:
        """``message`` at this place."""
        return Problem(self.file, self.line, self.column, message)


@dataclass(frozen=True, slots=True)
class Selection:
    """The expert's choice of features, in place of what calibration chose; empty means as calibrated.

    ``method``: the scoring method to rank by.  ``max_features``: how many of the best at each timestep.
    ``min_score``: the least score of one.  ``features``: exactly these, as ``sae:index``.
    """

    method: str | None = None
    max_features: int | None = None
    min_score: float | None = None
    features: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Window:
    """Timesteps between which a rule acts, both included; ``first`` is the larger, timesteps count down."""

    first: int
    last: int

    def __contains__(self, timestep: int) -> bool:
        """Whether the rule acts at ``timestep``."""
        return self.last <= timestep <= self.first


@dataclass(frozen=True, slots=True)
class ConceptRule:
    """Remove ``concept``.

    ``strength``: 0 leaves alone, 1 is the calibrated operating point.
    ``multiplier`` (gamma) and ``selection`` are the expert's override of the calibration.
    ``window``: None for all timesteps.
    ``share``: of an image's positions, from which on the concept counts as present.
    ``removal``: least share of target images from which the concept must be gone, with ``confidence``.
    """

    concept: str
    place: Place
    action: str = ACTIONS[0]
    mode: str = MODES[-1]
    strength: float = 1.0
    multiplier: float | None = None
    selection: Selection = Selection()
    window: Window | None = None
    severity: str = SEVERITIES[1]
    share: float = PRESENT_SHARE
    removal: float = 0.85
    confidence: float = CONFIDENCE

    @property
    def edits(self) -> bool:
        """Whether the rule changes activations, rather than only watching them."""
        return self.mode == "enforce" and self.action != "detect" and self.strength != 0

    @property
    def refuses(self) -> bool:
        """Whether images on which the concept is present are refused."""
        return self.mode == "enforce" and self.action == "detect"


@dataclass(frozen=True, slots=True)
class Retain:
    """What must stay unharmed, up to ``max_loss`` accuracy.

    All concepts of ``domains``, each of ``concepts``, and what the prompts of ``prompts`` (names or paths of prompt
    sets) ask for.
    """

    domains: tuple[str, ...]
    concepts: tuple[str, ...]
    max_loss: float
    place: Place
    prompts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Audit:
    """How ``verify`` judges the policy: the prompt set's name or path, the seeds, and the least n per concept."""

    prompts: str
    seeds: tuple[int, ...]
    minimum_n: int
    place: Place


@dataclass(frozen=True, slots=True)
class Tested:
    """What the policy was tested with: scheduler classes and numbers of steps; empty and None say nothing."""

    schedulers: tuple[str, ...] = ()
    steps: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class Waiver:
    """A permission to loosen a base.

    ``covers``: the settings that are loosened under it, in words; empty when nothing is.
    ``state``: ``expired`` counts as not there; ``unused`` covers nothing.  ``expires``: the last day on which it holds.
    """

    what: str
    reason: str
    owner: str
    ticket: str
    expires: date
    policy: str
    place: Place
    state: Literal["active", "unused", "expired"]
    covers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PolicyTest:
    """A prompt whose outcome is known: ``expect`` is one of ``names.EXPECTATIONS``; ``todo`` says why it may fail.

    The guard acts on a concept when its features fire at ``share`` of the positions or more.
    """

    prompt: str
    expect: str
    concept: str | None
    seed: int
    share: float
    todo: str | None
    place: Place


@dataclass(frozen=True, slots=True)
class Base:
    """A policy that another one extends, as it was found."""

    name: str
    version: str
    digest: str
    file: str
    status: str


@dataclass(frozen=True, slots=True)
class Policy:
    """A whole policy. ``digest`` covers its meaning, not comments, layout or file name.

    ``branches``: which branches of classifier-free guidance are edited, one of ``names.BRANCHES``;
    ``threshold``: above which latent a feature is edited, one of ``names.THRESHOLDS``.
    ``fingerprint``: the model that it must be, "" for any of the name.
    ``bases``: all policies that it extends, also through others.  ``places``: where each setting was written, by name
    (see ``policy.settings``).
    """

    name: str
    version: str
    owner: str
    model: str
    concepts: tuple[ConceptRule, ...]
    retain: Retain
    audit: Audit
    file: str
    model_place: Place
    digest: str = ""
    description: str = ""
    status: str = STATUSES[0]
    references: tuple[str, ...] = ()
    side_effects: tuple[str, ...] = ()
    fingerprint: str = ""
    branches: str = BRANCHES[0]
    threshold: str = THRESHOLDS[0]
    tested: Tested = Tested()
    bases: tuple[Base, ...] = ()
    waivers: tuple[Waiver, ...] = ()
    tests: tuple[PolicyTest, ...] = ()
    waiver_days: int = 90
    places: Mapping[str, Place] = field(default_factory=dict)
