"""Explaining a policy: which features, from where, since when."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from saeuron_guard.cli.explain import as_text
from saeuron_guard.compiler.compile import compile_policy
from saeuron_guard.compiler.explain import Explanation, explain_policy
from saeuron_guard.errors import CompileError
from saeuron_guard.policy.load import load_policy
from tests.compiler.pretend import digest, pretend_registry

CASES = Path(__file__).parent / "cases"


def explain_case(name: str, concept: str | None = None) -> Explanation:
    """The explanation of a case's policy."""
    registry = pretend_registry(json.loads((CASES / name / "registry.json").read_text(encoding="utf-8")))
    return explain_policy(load_policy(CASES / name / "policy.yaml"), registry, concept)


def test_features_come_best_first_with_their_timesteps() -> None:
    """Each feature is named, scored, and listed with exactly the timesteps at which it is edited."""
    (concept,) = explain_case("features-differ-by-timestep").concepts
    (point,) = concept.points
    got = [(feature.feature, feature.score, feature.timesteps) for feature in point.features]
    assert got == [
        ("objects:1", 0.75, (900, 500)),
        ("objects:3", 0.5, (900, 100)),
        ("objects:8", 0.125, (100,)),
    ]
    assert [feature.largest_mean for feature in point.features] == [1.5, 1.0, 0.25]


def test_provenance_of_each_number_is_given() -> None:
    """SAE, scoring run and calibration are named with digests and what they record about themselves."""
    (concept,) = explain_case("features-differ-by-timestep").concepts
    (point,) = concept.points
    assert (point.sae, point.sae_digest, point.sae_provenance) == ("objects", digest("objects"), {"seed": 7})
    assert (point.run, point.method, point.statistics_digest) == ("objects.paper", "paper", digest("objects.paper"))
    assert point.run_provenance == {"prompts": "anchors"}
    assert (concept.figures, concept.calibration_provenance) == ({"ua": 0.95}, {"seeds": [1, 2, 3]})


def test_explanation_speaks_of_the_guard_that_compiles() -> None:
    """The digest is that of the compiled guard, so an explanation can be matched with a deployed folder."""
    case = CASES / "several-hookpoints"
    registry = pretend_registry(json.loads((case / "registry.json").read_text(encoding="utf-8")))
    policy = load_policy(case / "policy.yaml")
    assert explain_policy(policy, registry).guard_digest == compile_policy(policy, registry).digest


def test_a_merge_is_shown_to_both_rules() -> None:
    """The rule that keeps a feature and the one that loses it both mention it."""
    explanation = explain_case("stronger-rule-keeps-shared-feature")
    assert [concept.concept for concept in explanation.concepts] == ["knife", "pistol"]
    assert all(concept.merges[0].feature == "objects:3" for concept in explanation.concepts)


def test_one_concept_can_be_asked_for() -> None:
    """Only its rule is explained; for a concept without a rule the nearest is offered."""
    (concept,) = explain_case("several-hookpoints", "pistol").concepts
    assert [point.hookpoint for point in concept.points] == ["unet.up.1", "unet.up.2"]
    with pytest.raises(CompileError, match=r"no rule for concept 'pistl'\. Did you mean 'pistol'"):
        explain_case("several-hookpoints", "pistl")


def test_text_names_features_merges_and_collisions() -> None:
    """The lines for a terminal hold what a reviewer asks for, and say how many features they leave out."""
    text = "\n".join(as_text(explain_case("stronger-rule-keeps-shared-feature"), 2))
    assert "objects:3 is edited for knife: at 2 shared timesteps, |strength x multiplier| is 30 of knife" in text
    assert "and 1 more; --limit shows them" in text
    assert "multiplier -20" in text
    collided = "\n".join(as_text(explain_case("collisions-at-edited-timesteps-only"), 10))
    assert "objects:3 is among the best of cat, score 0.375" in collided
    assert "more; --limit" not in collided


def test_a_rule_that_only_watches_says_so() -> None:
    """Strength 0 is said in words; its features are listed, since the guard reports when they fire."""
    text = "\n".join(as_text(explain_case("strength-zero-edits-nothing"), 10))
    assert "pistol (object), scale, enforce, strength 0" in text
    assert "strength 0: watched, not edited" in text
    assert "objects:3" in text
