"""A verification as a table for people at a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from saeuron_guard.names import CONFIDENCE
from saeuron_guard.policy.waivers import waiver_lines
from saeuron_guard.verify.evaluate import Outcome, level
from saeuron_guard.verify.figures import ConceptFigures, RetainFigures, TestFigures
from saeuron_guard.verify.metrics import Interval
from saeuron_guard.verify.result import VerifyResult

_STATUS = {"pass": "ok", "fail": "FAIL", "inconclusive": "??", "not required": "-"}
_MOST_LABELS = 5

RETAIN_NAMES = {
    "ira": "other concepts of the removed domains (ira)",
    "cra": "concepts of the other domains (cra)",
}


def render_text(result: VerifyResult) -> str:
    """The figures with their bounds, what target images became, the reasons and the verdict on the last line."""
    evaluation = result.evaluation
    kept = kept_rows(result)
    removed = tuple(zip(result.concepts, evaluation.concepts, strict=True))
    blocks = [
        _heading(result),
        _section("removed", _removed(removed)),
        _section("what their images became", _became(result.concepts)),
        _section("kept", _kept(kept)),
        _section("tests", _tests(result)),
        _quality(result),
        _list("why", evaluation.reasons),
        _list("warnings", evaluation.warnings),
        f"verdict: {evaluation.verdict} (exit code {evaluation.exit_code})",
    ]
    return "\n\n".join(block for block in blocks if block) + "\n"


def kept_rows(result: VerifyResult) -> list[tuple[str, RetainFigures, Outcome]]:
    """Everything that had to stay, with its heading."""
    evaluation = result.evaluation
    sets = zip(result.prompt_sets, evaluation.prompts, strict=True)
    return [
        (RETAIN_NAMES["ira"], result.ira, evaluation.ira),
        (RETAIN_NAMES["cra"], result.cra, evaluation.cra),
        *((f"prompts of {figures.name}", figures, outcome) for figures, outcome in sets),
    ]


def test_rows(result: VerifyResult) -> list[tuple[TestFigures, Outcome]]:
    """The policy's tests with their outcomes."""
    return list(zip(result.tests, result.evaluation.tests, strict=True))


def percent(share: float | None) -> str:
    """A share as a percentage with one decimal, or a dash when there is none."""
    return "-" if share is None else f"{100 * share:.1f}%"


def points(share: float | None) -> str:
    """A difference of shares in percentage points, signed, or a dash when there is none."""
    return "-" if share is None else f"{100 * share:+.1f}"


def align(rows: Sequence[Sequence[str]]) -> str:
    """Rows as columns: the first to the left, all others to the right."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    lines = (
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )
    return "\n".join(lines)


def _heading(result: VerifyResult) -> str:
    seeds = ", ".join(str(seed) for seed in result.seeds)
    policy = f"policy {result.policy.name} {result.policy_version} on {result.model}"
    used = f"prompts {result.prompts.name}, judge {result.judge.name}, guard {result.guard_digest[:19]}"
    waivers = "\n".join(waiver_lines(result.waivers))
    return f"{policy}, {len(result.pairs)} pairs of images, seeds {seeds}\n{used}\n{waivers}"


def _removed(removed: Sequence[tuple[ConceptFigures, Outcome]]) -> str:
    header = ("concept", "n", "shown without", "shown with", "gone", "bounds", "at", "required", "")
    rows = [
        (
            figures.concept,
            str(figures.n),
            percent(figures.base_rate),
            percent(figures.guarded_rate),
            percent(figures.ua.value if figures.ua else None),
            _bounds(figures.ua),
            level(figures),
            f">= {percent(figures.threshold)}" if not figures.watched else figures.watched,
            _STATUS[outcome.status],
        )
        for figures, outcome in removed
    ]
    return align([header, *rows])


def _kept(kept: Sequence[tuple[str, RetainFigures, Outcome]]) -> str:
    header = ("accuracy", "n", "without", "with", "points lost", f"{CONFIDENCE:.0%} bounds", "allowed", "")
    rows = [
        (
            name,
            str(figures.counts.n),
            percent(figures.base),
            percent(figures.accuracy.value if figures.accuracy else None),
            points(figures.loss.value if figures.loss else None),
            f"{points(figures.loss.low)} to {points(figures.loss.high)}" if figures.loss else "-",
            f"<= {points(figures.max_loss)}" if figures.required else "-",
            _STATUS[outcome.status],
        )
        for name, figures, outcome in kept
    ]
    return align([header, *rows])


def _tests(result: VerifyResult) -> str:
    rows = [
        (
            figures.prompt,
            str(figures.seed),
            figures.concept or "any concept",
            f"fired at {percent(figures.found)}",
            f"{'>=' if figures.expect == 'trigger' else '<'} {percent(figures.share)}",
            "todo" if figures.todo else _STATUS[outcome.status],
        )
        for figures, outcome in test_rows(result)
    ]
    return align([("prompt", "seed", "concept", "positions", "expected", ""), *rows]) if rows else ""


def _became(concepts: Sequence[ConceptFigures]) -> str:
    lines = []
    for figures in concepts:
        shown = [f"{label} {count}" for label, count in figures.became[:_MOST_LABELS]]
        rest = sum(count for _, count in figures.became[_MOST_LABELS:])
        text = ", ".join([*shown, *([f"others {rest}"] if rest else [])])
        counts = figures.survival
        if counts.n:
            text += (
                f"; their other concepts recognised {percent(counts.guarded / counts.n)} "
                f"(without {percent(counts.base / counts.n)}, n {counts.n})"
            )
        if text and figures.refuses:
            text += " by the judge's word; images on which it is present are refused, and black here"
        if text:
            lines.append(f"{figures.concept}: {text}")
    return "\n".join(lines)


def _quality(result: VerifyResult) -> str:
    quality = result.quality
    if quality.clip_score is None or quality.clip_score_base is None:
        return ""
    text = f"quality of kept images: CLIP score {quality.clip_score:.2f} (without {quality.clip_score_base:.2f})"
    return text if quality.cmmd is None else f"{text}, CMMD {quality.cmmd:.3f}"


def _section(title: str, body: str) -> str:
    indented = "\n".join(f"  {line}" for line in body.splitlines())
    return f"{title}\n{indented}" if body else ""


def _list(title: str, sentences: Sequence[str]) -> str:
    return _section(title, "\n".join(f"- {sentence}" for sentence in sentences))


def _bounds(interval: Interval | None) -> str:
    return f"{percent(interval.low)} to {percent(interval.high)}" if interval else "-"
