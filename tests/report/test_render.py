"""Text, JSON and HTML say what the result says, and nothing that it doesn't."""

from __future__ import annotations

import base64
import io
import json
import re
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from saeuron_guard.report.html import render_html
from saeuron_guard.report.json import render_json
from saeuron_guard.report.text import align, render_text
from saeuron_guard.verify.metrics import PairCounts
from saeuron_guard.verify.result import Pinned, VerifyResult
from tests.verify.samples import DIGEST, concept_of, result_of, retain_of

RESULTS = {
    "pass": result_of(),
    "fail": result_of(concepts=(concept_of(guarded_shown=40),)),
    "inconclusive": result_of(
        concepts=(concept_of(n=0, base_shown=0, became=(), survival=PairCounts()),),
        ira=retain_of(counts=PairCounts()),
        images=None,
        pairs=(),
    ),
}


@pytest.mark.parametrize(("verdict", "result"), RESULTS.items())
def test_all_formats_agree_on_the_verdict(verdict: str, result: VerifyResult) -> None:
    """The evaluator's verdict, exit code and reasons stand in every format."""
    text, page, value = render_text(result), render_html(result), json.loads(render_json(result))
    assert text.endswith(f"verdict: {verdict} (exit code {result.exit_code})\n")
    assert f'<span class="verdict {verdict}">{verdict}</span>' in page
    assert (value["verdict"], value["exit_code"]) == (verdict, result.exit_code)
    for reason in result.evaluation.reasons:
        assert reason in text
        assert reason in value["reasons"]
        assert reason.split(";", maxsplit=1)[0].split(" (")[0] in page


def test_text_shows_bounds_n_and_thresholds() -> None:
    """A reader sees how sure the figures are and what was required."""
    text = render_text(result_of())
    row = next(line for line in text.splitlines() if line.strip().startswith("pistol  "))
    assert re.split(r"\s{2,}", row.strip()) == [
        "pistol", "40", "100.0%", "0.0%", "100.0%", "91.2% to 100.0%", "95%", ">= 85.0%", "ok",
    ]  # fmt: skip
    assert "pistol: skull 30, car 10; their other concepts recognised 100.0% (without 100.0%, n 40)" in text
    assert "<= +10.0" in text


def test_refused_images_are_said_to_be_black() -> None:
    """In text and HTML, and only where the policy refuses."""
    told = "by the judge's word"
    for refuses in (True, False):
        result = result_of(concepts=(concept_of(refuses=refuses),))
        assert (told in render_text(result)) is refuses
        assert (told in render_html(result)) is refuses


def test_columns_line_up() -> None:
    """All cells of a column end at the same place."""
    lines = align([("a", "1"), ("bbb", "100")]).splitlines()
    assert lines == ["a      1", "bbb  100"]


HOSTILE = '<script>alert("x")</script><img src=x onerror=alert(1)>'


def test_html_escapes_what_people_wrote() -> None:
    """Markup in a policy's name, a prompt, a label or a warning is shown, not run."""
    pair = result_of().pairs[0]
    hostile = replace(pair, prompt=f'"{HOSTILE}', guarded=(("object", HOSTILE), ("style", "Noto")))
    result = result_of(
        policy=Pinned(HOSTILE, DIGEST),
        pairs=(hostile, result_of().pairs[1]),
        concepts=(concept_of(became=((HOSTILE, 40),)),),
        notes=(HOSTILE,),
    )
    page = render_html(result)
    assert "&lt;script&gt;" in page
    assert "<script" not in page
    assert "<img src=x" not in page
    assert 'alt="without the guard: &#34;&lt;script' in page


def test_html_is_one_file_that_loads_nothing() -> None:
    """No link, script, font or image leads outside, and a content policy forbids it."""
    page = render_html(result_of())
    assert not re.findall(r"https?:|[\"'(]//|<link|<script|<iframe|@import|url\(", page)
    assert re.findall(r'src="(data:image/png;base64,|)', page) == ["data:image/png;base64,"] * 4
    assert "default-src 'none'" in page


def test_html_holds_the_images_and_blurs_them() -> None:
    """The pixels are those of the result; every image is blurred until someone asks to see it."""
    result = result_of()
    page = render_html(result)
    assert result.images is not None
    uris = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    first = np.asarray(Image.open(io.BytesIO(base64.b64decode(uris[0]))))
    assert np.array_equal(first, result.images.base[0])
    style = page[page.index("<style>") : page.index("</style>")]
    assert re.search(r"\.pair img \{[^}]*filter: blur\(\d+px\)", style)
    assert page.count("<img") == page[page.index('<figure class="pair') :].count("<img") == 4
    assert not re.search(r"<input[^>]*\bchecked\b", page)


def test_html_shows_what_went_wrong_first() -> None:
    """Among more pairs than fit, those in which the concept is still seen come first and are marked."""
    good = result_of().pairs[0]
    bad = replace(good, prompt="the one that failed", guarded=good.base)
    images = result_of().images
    assert images is not None
    many = type(images)(np.repeat(images.base[:1], 41, 0), np.repeat(images.guarded[:1], 41, 0))
    page = render_html(result_of(pairs=(*[good] * 40, bad), images=many))
    figures = page.split('<figure class="pair')[1:]
    assert len(figures) == 24
    assert "the one that failed" in figures[0]
    assert figures[0].startswith(" bad")
    assert "24 of 41 pairs" in page


def test_html_works_in_the_dark_and_on_paper() -> None:
    """Colours follow the reader's scheme and print keeps the bars."""
    page = render_html(result_of())
    assert "prefers-color-scheme: dark" in page
    assert "@media print" in page
