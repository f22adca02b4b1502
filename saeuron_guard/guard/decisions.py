"""What was decided of an image: one line of JSON, the same for whoever writes and whoever reads it. Without torch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Final

from saeuron_guard.compiler.config import GuardConfig, Rule
from saeuron_guard.compiler.decode import decode
from saeuron_guard.guard.presence import present_in
from saeuron_guard.names import MODES, SEVERITIES
from saeuron_guard.strict_json import read_json
from saeuron_guard.wording import quote

SCHEMA: Final = "saeuron-guard/decision-v1"
RELEASED: Final = "released"
WARNED: Final = "released-with-warning"
UNGUARDED: Final = "released-unguarded"
"""The guard did not run as it should, and none of its rules is enforced."""
REFUSED: Final = "refused"
"""A concept is present that a policy refuses."""
WITHHELD: Final = "withheld"
OUTCOMES: Final = (RELEASED, WARNED, UNGUARDED, REFUSED, WITHHELD)

_LARGEST: Final = 3.4e38
"""JSON has no infinity, and a latent relative to a threshold of 0 is infinite."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One concept that fired: in how many ``steps``, at which share of the ``positions``, and its ``peak``.

    ``peak``: largest latent relative to its threshold.  ``mode`` and ``severity`` are the strictest of its rules'.
    """

    concept: str
    domain: str
    action: str
    mode: str
    severity: str
    steps: int
    positions: float
    peak: float


@dataclass(frozen=True, slots=True)
class PolicyName:
    """The policy that the guard was compiled from."""

    name: str
    version: str
    digest: str


@dataclass(frozen=True, slots=True)
class PromptNote:
    """A prompt as the log keeps it: ``form`` is hashed, masked or plain, ``salt`` the id of the salt of a hash."""

    form: str
    text: str
    salt: str


@dataclass(frozen=True, slots=True)
class Decision:
    """What was decided of one image, or of all images of a pipeline call where nothing is known of single ones.

    ``id`` is unique; ``call`` is the same for the images of one pipeline call.  ``time``: when it was decided, UTC.
    ``image``: which of the ``images`` of the call, from 0; None for all of them; ``images`` None when that is unknown.
    ``modes``: those of all rules of the guard.  ``steps``: denoiser calls that were guarded.
    ``why`` an image was withheld or refused, or left unguarded.  ``guard`` and ``policy`` are empty for an image that
    none of several policies was to guard.  ``seed`` None and ``prompts`` empty when unknown.
    """

    schema: str
    id: str
    call: str
    time: str
    guard: str
    policy: PolicyName
    model: str
    modes: tuple[str, ...]
    image: int | None
    images: int | None
    steps: int
    concepts: tuple[Finding, ...]
    outcome: str
    why: str
    seed: int | None
    prompts: tuple[PromptNote, ...]

    def line(self) -> str:
        """The decision as a line of the log, in ASCII, without its end."""
        return json.dumps(asdict(self), separators=(",", ":"), allow_nan=False)


def parse_decision(line: str) -> Decision:
    """The decision of a log's line; ValueError, in words, for a line that is none."""
    value = read_json(line)
    schema = value.get("schema") if isinstance(value, dict) else None
    if schema != SCHEMA:
        raise ValueError(f"schema is {quote(str(schema))}, this release reads {SCHEMA!r}")
    decision = decode(Decision, value, "")
    if decision.outcome not in OUTCOMES:
        raise ValueError(f"outcome is {quote(decision.outcome)}, expected {', '.join(OUTCOMES)}")
    return decision


NO_POLICY: Final = PolicyName("", "", "")


def policy_name(config: GuardConfig | None) -> PolicyName:
    """The policy that a guard was compiled from; ``NO_POLICY`` for None."""
    if config is None:
        return NO_POLICY
    return PolicyName(config.policy_name, config.policy_version, config.policy_digest)


def finding(rules: Sequence[Rule], concept: str, steps: int, positions: float, peak: float) -> Finding:
    """What is noted of a concept that fired, with the strictest of what ``rules`` say of it."""
    rules = [rule for rule in rules if rule.concept == concept]
    strictest = max(rules, key=lambda rule: MODES.index(rule.mode))
    return Finding(
        concept=concept,
        domain=strictest.domain,
        action=strictest.action,
        mode=strictest.mode,
        severity=max((rule.severity for rule in rules), key=_rank),
        steps=steps,
        positions=positions,
        peak=min(peak, _LARGEST),
    )


def outcome_of(config: GuardConfig, concepts: tuple[Finding, ...]) -> str:
    """How an image leaves in which ``concepts`` fired and that is neither refused nor withheld."""
    present = present_in(config, [(found.concept, found.positions) for found in concepts])
    return WARNED if any(found.warned for found in present) else RELEASED


def _rank(severity: str) -> int:
    return SEVERITIES.index(severity) if severity in SEVERITIES else -1
