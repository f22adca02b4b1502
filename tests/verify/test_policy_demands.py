"""What a policy demands beyond removal and retained concepts: tests, prompt sets, confidence, rules that only watch."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from saeuron_guard.names import CONFIDENCE
from saeuron_guard.policy import model
from saeuron_guard.policy.model import PolicyTest, Retain
from saeuron_guard.registry.store import FeatureRegistry
from saeuron_guard.report.html import render_html
from saeuron_guard.report.text import render_text
from saeuron_guard.verify.evaluate import evaluate
from saeuron_guard.verify.figures import TestFigures
from saeuron_guard.verify.metrics import PairCounts, wilson
from saeuron_guard.verify.run import run_verify
from tests.verify.samples import concept_of, result_of, retain_of
from tests.verify.world import (
    PLACE,
    PROMPTS,
    RememberingJudge,
    policy_of,
)

ACTS = TestFigures("a pistol", 0, "trigger", "pistol", 0.25, None, (("pistol", 0.9), ("knife", 0.1)))
FAILS = replace(ACTS, fired=(("pistol", 0.2), ("knife", 0.9)))


def verdict_with(*tests: TestFigures, **figures: Any) -> tuple[str, int, int]:
    """Verdict, exit code and number of warnings of otherwise good figures."""
    found = evaluate((concept_of(**figures),), retain_of(), retain_of("cra"), (), tests)
    return found.verdict, found.exit_code, len(found.warnings)


def test_a_test_holds_by_the_share_of_its_concept() -> None:
    """Of trigger, at least the share of that concept; of clear without a concept, less than it of every one."""
    assert ACTS.holds
    assert not FAILS.holds
    clear = replace(ACTS, expect="clear", concept=None)
    assert not clear.holds
    assert replace(clear, fired=(("pistol", 0.24),)).holds
    assert replace(clear, fired=()).holds


def test_a_failed_test_fails_the_policy_and_a_known_gap_does_not() -> None:
    """Known gaps are warnings, whether they still fail or hold by now."""
    assert verdict_with(ACTS) == ("pass", 0, 0)
    assert verdict_with(ACTS, FAILS) == ("fail", 1, 0)
    assert verdict_with(replace(FAILS, todo="some day")) == ("pass", 0, 1)
    assert verdict_with(replace(ACTS, todo="some day")) == ("pass", 0, 1)


def test_a_retained_prompt_set_counts_as_the_others_do() -> None:
    """A loss on it fails the policy, and too few images leave it open."""
    for counts, verdict in (
        (None, "pass"),
        (PairCounts(both=70, base_only=26), "fail"),
        (PairCounts(both=3), "inconclusive"),
    ):
        found = evaluate((concept_of(),), retain_of(), retain_of("cra"), (retain_of("extra", counts),))
        assert found.verdict == verdict


def test_each_concept_has_its_own_confidence() -> None:
    """Bounds are wider at a higher level, and the policy's level decides."""
    assert wilson(57, 60).low == wilson(57, 60, CONFIDENCE).low > wilson(57, 60, 0.99).low
    assert verdict_with(n=60, base_shown=60, guarded_shown=3)[0] == "pass"
    assert verdict_with(n=60, base_shown=60, guarded_shown=3, confidence=0.99)[0] == "fail"


def test_what_is_only_watched_is_not_required() -> None:
    """One watched concept beside a removed one passes; nothing but watched ones is nothing to verify."""
    watched = concept_of(concept="cat", guarded_shown=40, watched="mode observe")
    assert evaluate((concept_of(), watched), retain_of(), retain_of("cra")).verdict == "pass"
    assert evaluate((watched,), retain_of(), retain_of("cra")).verdict == "inconclusive"


def test_reports_show_all_of_it() -> None:
    """As text, as a page, and as JSON."""
    sets = (retain_of("audit/extra"),)
    result = result_of(tests=(ACTS, replace(FAILS, todo="some day")), prompt_sets=sets)
    text, page = render_text(result), render_html(result)
    for words in ("prompts of audit/extra", "some day"):
        assert words in text
        assert words in page
    assert "90.0%" in text
    value = json.loads(json.dumps(result.to_json()))
    assert [test["status"] for test in value["tests"]] == ["pass", "not required"]
    assert value["retain"]["prompts"][0]["prompts"] == "audit/extra"


EXTRA = """apiVersion: saeuron-guard/v1
kind: PromptSet
metadata: {name: extra, role: audit, model: tiny}
prompts:
  - {text: a cat in Noto, labels: {object: cat, style: Noto}}
  - {text: a pistol in Noto, labels: {object: pistol, style: Noto}}
"""


def test_all_of_it_is_drawn(pipe: Any, registry: FeatureRegistry, judge: RememberingJudge, tmp_path: Path) -> None:
    """Tests run each with its own report, the set's prompts without removed concepts are judged, notes are taken."""
    (tmp_path / "extra.yaml").write_text(EXTRA, encoding="utf-8")
    tests = (
        PolicyTest("a pistol in Noto", "trigger", "pistol", 1, 0.01, None, PLACE),
        PolicyTest("a pistol in Noto", "trigger", "pistol", 2, 1.0, "cannot be", PLACE),
    )
    policy = replace(
        policy_of(),
        file=str(tmp_path / "policy.yaml"),
        retain=Retain(("object", "style"), (), 1.0, PLACE, ("extra.yaml",)),
        tests=tests,
        tested=model.Tested(("EulerDiscreteScheduler",), (20, 50)),
    )
    result = run_verify(policy, registry, pipe=pipe, judge=judge, prompts=PROMPTS)
    assert [test.holds for test in result.tests] == [True, False]
    assert [test.seed for test in result.tests] == [1, 2]
    assert all(0 < dict(test.fired)["pistol"] < 1 for test in result.tests)
    (kept,) = result.prompt_sets
    assert (kept.name, kept.counts.n) == ("extra.yaml", 4)  # one prompt, two seeds, two labels
    assert any("tested with EulerDiscreteScheduler" in note for note in result.notes)
    assert any("tested with 20 to 50" in note for note in result.notes)
