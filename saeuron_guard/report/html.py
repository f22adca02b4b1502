"""A verification as one self-contained page: figures with their intervals, and the pairs of images, blurred."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import jinja2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from saeuron_guard.names import CONFIDENCE
from saeuron_guard.policy.waivers import waiver_lines
from saeuron_guard.report.text import kept_rows, percent, points, test_rows
from saeuron_guard.verify.evaluate import SHOWN, level
from saeuron_guard.verify.figures import ConceptFigures, JudgedPair
from saeuron_guard.verify.metrics import Interval
from saeuron_guard.verify.result import VerifyResult

_SHOWN_PAIRS = 24
"""Pairs of images per grid: a page with all of a large audit would be too heavy to open."""

_LARGEST_SIDE = 256
"""Images are made smaller than this many pixels; the page is for looking, not for judging anew."""


@dataclass(frozen=True, slots=True)
class PairView:
    """One pair as the page shows it: data URIs (None without images), the judge's words, and whether all is well."""

    prompt: str
    seed: int
    base: str | None
    guarded: str | None
    base_label: str
    guarded_label: str
    good: bool


@dataclass(frozen=True, slots=True)
class Grid:
    """Pairs under one heading; ``total`` counts those that could have been shown."""

    title: str
    pairs: tuple[PairView, ...]
    total: int


def render_html(result: VerifyResult) -> str:
    """The page as text. Everything from policies and prompts is escaped; nothing is loaded from anywhere else."""
    evaluation = result.evaluation
    return _template().render(
        result=result,
        evaluation=evaluation,
        removed=list(zip(result.concepts, evaluation.concepts, strict=True)),
        kept=kept_rows(result),
        tests=test_rows(result),
        level=level,
        waivers=waiver_lines(result.waivers),
        grids=[*(_concept_grid(result, figures) for figures in result.concepts), _retain_grid(result)],
        confidence=CONFIDENCE,
        least_base_rate=SHOWN,
    )


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("saeuron_guard.report", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(percent=percent, points=points, position=_position, span=_span)
    return environment.get_template("verify.html")


def _position(share: float) -> str:
    """A share as a CSS length along a bar."""
    return f"{100 * min(max(share, 0.0), 1.0):.2f}%"


def _span(interval: Interval) -> str:
    """An interval as the CSS position and width of its part of a bar."""
    return f"left:{_position(interval.low)};width:{_position(interval.high - interval.low)}"


def _concept_grid(result: VerifyResult, figures: ConceptFigures) -> Grid:
    """The concept's target pairs, those first in which the judge still sees it."""
    own = [index for index, pair in enumerate(result.pairs) if figures.concept in pair.targets]
    views = [(index, dict(result.pairs[index].guarded)[figures.domain] != figures.concept) for index in own]
    return _grid(result, f"{figures.concept}: asked for, to be removed", views, (figures.domain,))


def _retain_grid(result: VerifyResult) -> Grid:
    """The retain pairs, those first in which something was lost."""
    own = [index for index, pair in enumerate(result.pairs) if not pair.targets]
    views = [(index, not _lost(result.pairs[index])) for index in own]
    domains = tuple(sorted({domain for pair in result.pairs for domain, _ in pair.expected}))
    return _grid(result, "Asked for, to be kept", views, domains)


def _lost(pair: JudgedPair) -> bool:
    base, guarded = dict(pair.base), dict(pair.guarded)
    return any(base[domain] == concept != guarded[domain] for domain, concept in pair.expected)


def _grid(result: VerifyResult, title: str, rows: Sequence[tuple[int, bool]], domains: Sequence[str]) -> Grid:
    chosen = sorted(rows, key=lambda row: row[1])[:_SHOWN_PAIRS]
    views = []
    for index, good in chosen:
        pair = result.pairs[index]
        images = result.images
        views.append(
            PairView(
                prompt=pair.prompt,
                seed=pair.seed,
                base=_data_uri(images.base[index]) if images else None,
                guarded=_data_uri(images.guarded[index]) if images else None,
                base_label=_words(pair.base, domains),
                guarded_label=_words(pair.guarded, domains),
                good=good,
            )
        )
    return Grid(title, tuple(views), len(rows))


def _words(labels: Sequence[tuple[str, str]], domains: Sequence[str]) -> str:
    return ", ".join(label for domain, label in labels if domain in domains)


def _data_uri(image: NDArray[np.uint8]) -> str:
    picture = Image.fromarray(image)
    picture.thumbnail((_LARGEST_SIDE, _LARGEST_SIDE))
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
