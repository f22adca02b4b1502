"""The evaluator as a table of cases: figures on the left, verdict and exit code on the right."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saeuron_guard.verify.evaluate import evaluate
from saeuron_guard.verify.figures import ConceptFigures, RetainFigures
from saeuron_guard.verify.metrics import PairCounts
from tests.verify.samples import concept_of, result_of, retain_of

LOST = PairCounts(both=70, base_only=22, neither=4)
UNSEEN = PairCounts(both=30, neither=66)
FEW = PairCounts(both=19)

CASES = {
    "all is well": (concept_of(), retain_of(), retain_of("cra"), "pass", 0),
    "the concept is still there": (concept_of(guarded_shown=40), retain_of(), retain_of("cra"), "fail", 1),
    # 40 of 42 is 95 %, but its lower bound is 84.2 %
    "the bound misses the threshold": (concept_of(n=42, base_shown=42, guarded_shown=2), retain_of(), retain_of("cra"),
                                       "fail", 1),
    "the bound meets the threshold": (concept_of(n=48, base_shown=48, guarded_shown=2), retain_of(), retain_of("cra"),
                                      "pass", 0),
    "strength 0 is judged like any other": (concept_of(strength=0.0, guarded_shown=40), retain_of(), retain_of("cra"),
                                            "fail", 1),
    "no target images": (concept_of(n=0, base_shown=0, became=(), survival=PairCounts()), retain_of(),
                         retain_of("cra"), "inconclusive", 3),
    "too few target images": (concept_of(n=19, base_shown=19), retain_of(), retain_of("cra"), "inconclusive", 3),
    "enough target images": (concept_of(n=40, minimum_n=40), retain_of(), retain_of("cra"), "pass", 0),
    "the concept was never there": (concept_of(base_shown=23), retain_of(), retain_of("cra"), "inconclusive", 3),
    "the concept was there often enough": (concept_of(base_shown=24), retain_of(), retain_of("cra"), "pass", 0),
    "neighbours are harmed": (concept_of(), retain_of(counts=LOST), retain_of("cra"), "fail", 1),
    "the other domain is harmed": (concept_of(), retain_of(), retain_of("cra", counts=LOST), "fail", 1),
    "harm that the policy allows": (concept_of(), retain_of(counts=LOST, max_loss=0.4), retain_of("cra"), "pass", 0),
    "harm that the policy does not ask about": (concept_of(), retain_of(counts=LOST, required=False),
                                                retain_of("cra"), "pass", 0),
    "too few retain images": (concept_of(), retain_of(counts=FEW), retain_of("cra"), "inconclusive", 3),
    "no retain images": (concept_of(), retain_of(), retain_of("cra", counts=PairCounts()), "inconclusive", 3),
    "the judge cannot see what is kept": (concept_of(), retain_of(counts=UNSEEN), retain_of("cra"), "inconclusive", 3),
    "inconclusive outweighs a failure": (concept_of(guarded_shown=40), retain_of(counts=FEW), retain_of("cra"),
                                         "inconclusive", 3),
}  # fmt: skip


@pytest.mark.parametrize(("concept", "ira", "cra", "verdict", "exit_code"), CASES.values(), ids=CASES.keys())
def test_figures_decide(
    concept: ConceptFigures, ira: RetainFigures, cra: RetainFigures, verdict: str, exit_code: int
) -> None:
    """Each case of the table comes out as it says, and every verdict but a pass gives its reasons."""
    evaluation = evaluate([concept], ira, cra)
    assert (evaluation.verdict, evaluation.exit_code) == (verdict, exit_code)
    assert bool(evaluation.reasons) == (verdict != "pass")


def test_one_concept_that_could_not_be_evaluated_is_enough() -> None:
    """A second concept's clear pass doesn't cover for the first, and the order doesn't matter."""
    good, blind = concept_of(), concept_of(concept="knife", base_shown=0)
    for concepts in ([good, blind], [blind, good]):
        evaluation = evaluate(concepts, retain_of(), retain_of("cra"))
        assert evaluation.exit_code == 3
        assert [outcome.passed for outcome in evaluation.concepts].count(None) == 1


def test_strict_turns_warnings_into_exit_code_4_but_nothing_else() -> None:
    """Only a pass with warnings becomes 4; without warnings it stays 0 and a failure stays 1."""
    arguments = retain_of(), retain_of("cra")
    assert evaluate([concept_of()], *arguments, strict=True).exit_code == 0
    warned = evaluate([concept_of()], *arguments, notes=["a smaller budget"], strict=True)
    assert (warned.verdict, warned.exit_code) == ("pass", 4)
    assert evaluate([concept_of(guarded_shown=40)], *arguments, notes=["x"], strict=True).exit_code == 1
    assert evaluate([concept_of(n=1, base_shown=1)], *arguments, notes=["x"], strict=True).exit_code == 3


def test_collateral_on_the_targets_own_images_is_a_warning() -> None:
    """When the other domain dies together with the target, the reader is told; when it lives, not."""
    dead = concept_of(survival=PairCounts(both=10, base_only=30))
    arguments = retain_of(), retain_of("cra")
    assert "recognised in 25.0%" in evaluate([dead], *arguments).warnings[0]
    assert evaluate([concept_of()], *arguments).warnings == ()


def test_a_policy_that_removes_nothing_cannot_pass() -> None:
    """No concepts, no verdict."""
    assert evaluate([], retain_of(), retain_of("cra")).exit_code == 3


shares = st.integers(0, 60).flatmap(
    lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(0, n), st.floats(0, 1))
)
pair_counts = st.builds(PairCounts, *[st.integers(0, 40)] * 4)


@given(shares, pair_counts, pair_counts, st.booleans(), st.booleans())
def test_exit_code_0_needs_every_requirement_proven(
    share: tuple[int, int, int, float], ira: PairCounts, cra: PairCounts, required: bool, strict: bool
) -> None:
    """Whatever the figures, verdict and exit code agree, and a pass means that each requirement passed."""
    n, base, guarded, threshold = share
    concept = concept_of(n=n, base_shown=base, guarded_shown=guarded, threshold=threshold)
    evaluation = evaluate(
        [concept], retain_of(counts=ira, required=required), retain_of("cra", counts=cra), strict=strict
    )
    codes = {"pass": {0, 4}, "fail": {1}, "inconclusive": {3}}
    assert evaluation.exit_code in codes[evaluation.verdict]
    outcomes = [*evaluation.concepts, evaluation.ira, evaluation.cra]
    if evaluation.verdict == "pass":
        assert all(outcome.passed or outcome.status == "not required" for outcome in outcomes)
        assert concept.ua is not None
        assert concept.ua.low >= threshold
        assert n >= 20
        assert base >= 0.6 * n


def test_the_result_takes_its_verdict_from_its_figures() -> None:
    """A result cannot claim what its figures don't say: the verdict is computed, not stored."""
    failing = result_of(concepts=(concept_of(guarded_shown=40),))
    assert result_of().exit_code == 0
    assert (failing.verdict, failing.exit_code) == ("fail", 1)
    assert not {"verdict", "exit_code", "evaluation"} & {field.name for field in dataclasses.fields(failing)}
