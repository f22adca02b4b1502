"""Words with a fixed meaning in files, tables and reports, and the values that belong to them."""

from __future__ import annotations

import re
from typing import Final

API_VERSION: Final = "saeuron-guard/v1"

OLDER_POLICY_VERSIONS: Final = ("saeuron-guard/v1alpha1",)
"""Versions of policies that ``policy upgrade`` brings to API_VERSION, the oldest first."""

GUARD_FORMAT: Final = "saeuron-guard/guard-v3"

STRENGTH_PRESETS: Final[dict[str, float]] = {"weak": 0.5, "medium": 1.0, "strong": 1.5, "max": 2.0}
"""What the named strengths mean; 1 is the calibrated operating point of a concept."""

LARGEST_STRENGTH: Final = 10.0

LARGEST_FIGURE: Final = 1e9
"""Bound on multipliers, means and thresholds: products of two of them with a latent stay far below float32's limit."""

LARGEST_TIMESTEP: Final = 1_000_000
"""Bound on timesteps; schedulers of diffusers count 1000 of them."""

BRANCHES: Final = ("conditional", "all")
"""Which branches of classifier-free guidance a guard edits; the first is the default."""

THRESHOLDS: Final = ("midpoint", "mean")
"""Above which latent a feature is edited; the first is the default.

midpoint: half-way between the feature's mean on the concept and on the others, or ``mean`` if that is higher.
mean: the mean over all concepts of the domain, as in SAeUron's paper.
"""

ACTIONS: Final = ("scale", "replace", "reflect", "detect")
"""What is done where a concept fires; the first is the default, the last edits nothing and refuses the image."""

GATES: Final = ("exact", "threshold")
"""How a guard decides where a feature fires; the first is the default.

exact: above its threshold and among the top k of the dictionary, as the SAE was trained.
threshold: above its threshold alone, which needs no host synchronisation.
"""

MODES: Final = ("observe", "warn", "enforce")
"""Whether a rule's action is carried out, mildest first; only enforce, the default, edits or refuses anything."""

PRESENT_SHARE: Final = 0.25
"""From which share of an image's positions on a concept counts as present, if nobody says otherwise.

Features of a concept fire at a few positions of nearly every image.
"""

REFUSALS: Final = ("error", "blank")
"""What a guard gives in place of an image that it refuses; the first is the default.

error: ImageRefused, and no image of the call.  blank: a black image, flagged; the others of the call are given.
"""

SEVERITIES: Final = ("low", "medium", "high", "critical")
"""How bad an image of a concept would be, mildest first."""

STATUSES: Final = ("experimental", "stable", "deprecated")
"""How far a policy is to be relied on; the first is the default."""

EXPECTATIONS: Final = ("trigger", "clear")
"""What a policy's test expects of the guard: that it acts, or that it does not."""

GUARD_METHODS: Final = ("guard", "guard-all-branches")
"""Those of the REMOVAL_METHODS that are the registry's calibration; the second edits the unconditional branch too."""

REMOVAL_METHODS: Final = (*GUARD_METHODS, "published", "mean-difference")
"""What ``benchmark removal`` compares."""

PROMPT_ROLES: Final = ("anchor", "calibration", "audit")
"""Find features / choose settings / judge removal and retention; a prompt serves one role only."""

CONFIDENCE: Final = 0.95
"""Two-sided confidence level of every interval the package prints."""

SLUG: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._-]{0,62}")
FEATURE: Final = re.compile(r"(?P<sae>[A-Za-z0-9][A-Za-z0-9._/-]*):(?P<index>[0-9]{1,7})")
"""A feature's name, ``sae:index``."""


HOOKPOINT: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}(\.[A-Za-z0-9_]{1,64}){1,15}")
"""A dotted module path from the pipeline, ``unet.up_blocks.1.attentions.1``."""


def feature_name(sae: str, index: int) -> str:
    """Name feature ``index`` of ``sae``."""
    return f"{sae}:{index}"
