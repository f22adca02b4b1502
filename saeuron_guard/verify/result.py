"""One verification's whole result. No torch here: reports read it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from saeuron_guard.names import CONFIDENCE
from saeuron_guard.policy.model import Waiver
from saeuron_guard.policy.waivers import waivers_json
from saeuron_guard.verify.evaluate import SHOWN, Evaluation, Outcome, Verdict, evaluate
from saeuron_guard.verify.figures import ConceptFigures, JudgedPair, RetainFigures, TestFigures
from saeuron_guard.verify.metrics import Interval, PairCounts

RESULT_FORMAT = "saeuron-guard/verify-v1"


@dataclass(frozen=True, slots=True)
class Pinned:
    """Something that took part, by name and digest."""

    name: str
    digest: str


@dataclass(frozen=True, slots=True)
class Quality:
    """Image quality on the retain prompts; None when the judge cannot compare images with texts, or too few images.

    ``clip_score`` and ``clip_score_base``: mean over images of ``100 max(cos(image, prompt), 0)``, with and without
    the guard (Hessel et al., arXiv 2104.08718, with the scale of 100 that torchmetrics uses).
    ``cmmd``: CLIP-MMD between unguarded and guarded images, see ``metrics.cmmd``.
    """

    clip_score: float | None = None
    clip_score_base: float | None = None
    cmmd: float | None = None


@dataclass(frozen=True, slots=True)
class PairedImages:
    """The images of all pairs, uint8 [n, height, width, 3] each, in the order of the result's ``pairs``."""

    base: NDArray[np.uint8]
    guarded: NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class VerifyResult:
    """Figures and what they were measured with. Verdict and exit code follow from the figures by ``evaluate``.

    ``guard_report``: what the guard did while it drew the guarded images, as JSON. ``versions``: of the libraries.
    ``notes``: the run's own warnings. ``prompt_sets``: accuracy on each retained prompt set; their images are not kept.
    ``images`` are those of ``pairs`` and never enter the JSON.
    """

    policy: Pinned
    policy_version: str
    guard_digest: str
    model: str
    model_fingerprint: str
    judge: Pinned
    prompts: Pinned
    seeds: tuple[int, ...]
    concepts: tuple[ConceptFigures, ...]
    ira: RetainFigures
    cra: RetainFigures
    quality: Quality
    pairs: tuple[JudgedPair, ...]
    prompt_sets: tuple[RetainFigures, ...] = ()
    tests: tuple[TestFigures, ...] = ()
    waivers: tuple[Waiver, ...] = ()
    notes: tuple[str, ...] = ()
    strict: bool = False
    guard_report: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    images: PairedImages | None = field(default=None, compare=False, repr=False)

    @property
    def evaluation(self) -> Evaluation:
        """What the one evaluator says about the figures."""
        return evaluate(
            self.concepts, self.ira, self.cra, self.prompt_sets, self.tests, notes=self.notes, strict=self.strict
        )

    @property
    def verdict(self) -> Verdict:
        """``pass``, ``fail`` or ``inconclusive``."""
        return self.evaluation.verdict

    @property
    def exit_code(self) -> int:
        """0 passed, 1 failed, 3 could not be evaluated, 4 passed with warnings under ``strict``."""
        return self.evaluation.exit_code

    def to_json(self) -> dict[str, Any]:
        """The result as JSON values, the contract of ``verify --format json``. ``images`` counts all images drawn."""
        evaluation = self.evaluation
        return {
            "format": RESULT_FORMAT,
            "verdict": evaluation.verdict,
            "exit_code": evaluation.exit_code,
            "reasons": list(evaluation.reasons),
            "warnings": list(evaluation.warnings),
            "policy": {**asdict(self.policy), "version": self.policy_version},
            "guard": {"digest": self.guard_digest, "report": dict(self.guard_report)},
            "model": self.model,
            "model_fingerprint": self.model_fingerprint,
            "judge": asdict(self.judge),
            "prompts": asdict(self.prompts),
            "confidence": CONFIDENCE,
            "least_base_rate": SHOWN,
            "concepts": [
                _concept_json(figures, outcome)
                for figures, outcome in zip(self.concepts, evaluation.concepts, strict=True)
            ],
            "retain": {
                "ira": _retain_json(self.ira, evaluation.ira),
                "cra": _retain_json(self.cra, evaluation.cra),
                "prompts": [
                    {"prompts": figures.name, **_retain_json(figures, outcome)}
                    for figures, outcome in zip(self.prompt_sets, evaluation.prompts, strict=True)
                ],
            },
            "tests": [
                _test_json(figures, outcome) for figures, outcome in zip(self.tests, evaluation.tests, strict=True)
            ],
            "waivers": waivers_json(self.waivers),
            "quality": asdict(self.quality),
            "seeds": list(self.seeds),
            "images": 2 * len(self.pairs),
            "pairs": [_pair_json(pair) for pair in self.pairs],
            "versions": dict(self.versions),
        }


def _concept_json(figures: ConceptFigures, outcome: Outcome) -> dict[str, Any]:
    value, low, high = _bounds(figures.ua)
    return {
        "concept": figures.concept,
        "domain": figures.domain,
        "strength": figures.strength,
        "n": figures.n,
        "minimum_n": figures.minimum_n,
        "base_rate": figures.base_rate,
        "guarded_rate": figures.guarded_rate,
        "ua": value,
        "ua_low": low,
        "ua_high": high,
        "threshold": figures.threshold,
        "confidence": figures.confidence,
        "status": outcome.status,
        "passed": outcome.passed,
        "reason": outcome.reason,
        "refuses": figures.refuses,
        "became": dict(figures.became),
        "survival": _share_json(figures.survival),
    }


def _test_json(figures: TestFigures, outcome: Outcome) -> dict[str, Any]:
    return {
        "prompt": figures.prompt,
        "seed": figures.seed,
        "expect": figures.expect,
        "concept": figures.concept,
        "share": figures.share,
        "found": figures.found,
        "holds": figures.holds,
        "todo": figures.todo,
        "fired": dict(figures.fired),
        "status": outcome.status,
        "passed": outcome.passed,
        "reason": outcome.reason,
    }


def _retain_json(figures: RetainFigures, outcome: Outcome) -> dict[str, Any]:
    value, low, high = _bounds(figures.accuracy)
    loss, loss_low, loss_high = _bounds(figures.loss)
    return {
        "value": value,
        "low": low,
        "high": high,
        "base": figures.base,
        "n": figures.counts.n,
        "minimum_n": figures.minimum_n,
        "loss": loss,
        "loss_low": loss_low,
        "loss_high": loss_high,
        "max_loss": figures.max_loss,
        "status": outcome.status,
        "passed": outcome.passed,
        "reason": outcome.reason,
        "counts": asdict(figures.counts),
    }


def _share_json(counts: PairCounts) -> dict[str, Any]:
    n = counts.n
    return {"n": n, "base": counts.base / n if n else None, "value": counts.guarded / n if n else None}


def _bounds(interval: Interval | None) -> tuple[float | None, float | None, float | None]:
    return (interval.value, interval.low, interval.high) if interval else (None, None, None)


def _pair_json(pair: JudgedPair) -> dict[str, Any]:
    return {
        "prompt_id": pair.prompt_id,
        "prompt": pair.prompt,
        "seed": pair.seed,
        "targets": list(pair.targets),
        "expected": dict(pair.expected),
        "base": dict(pair.base),
        "guarded": dict(pair.guarded),
    }
