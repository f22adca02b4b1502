"""A verification from policy to result on a real, random pipeline under a real guard."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from diffusers import EulerDiscreteScheduler

from saeuron_guard.errors import CannotEvaluate, ModelMismatch
from saeuron_guard.registry.store import FeatureRegistry
from saeuron_guard.verify.run import run_verify
from tests.verify.world import (
    PROMPTS,
    RememberingJudge,
    policy_of,
    prompt,
    random_pipeline,
    write_registry,
)


def test_a_guard_that_changes_the_images_passes(pipe: Any, registry: FeatureRegistry, judge: RememberingJudge) -> None:
    """The guarded target images are new to the judge, so the concept is gone; verdict and exit code say so."""
    result = run_verify(policy_of(), registry, pipe=pipe, judge=judge, prompts=PROMPTS)
    (concept,) = result.concepts
    assert (concept.n, concept.base_rate, concept.guarded_rate) == (4, 1.0, 0.0)
    assert concept.became == (("else", 4),)
    assert (result.verdict, result.exit_code) == ("pass", 0)
    assert result.guard_report["concepts"][0]["fired"]


def test_strength_0_fails(pipe: Any, registry: FeatureRegistry, judge: RememberingJudge) -> None:
    """A policy that removes nothing leaves every image bit for bit as it was, and fails with exit code 1."""
    result = run_verify(policy_of(strength=0.0), registry, pipe=pipe, judge=judge, prompts=PROMPTS)
    assert result.images is not None
    assert np.array_equal(result.images.base, result.images.guarded)
    assert result.concepts[0].guarded_rate == 1.0
    assert (result.ira.counts.n, result.ira.loss is not None and result.ira.loss.value) == (4, 0.0)
    assert (result.verdict, result.exit_code) == ("fail", 1)


def test_harm_beyond_the_policy_fails(pipe: Any, registry: FeatureRegistry, judge: RememberingJudge) -> None:
    """The same guard fails when the policy does mind that retained images change."""
    result = run_verify(policy_of(max_loss=0.1), registry, pipe=pipe, judge=judge, prompts=PROMPTS)
    assert result.evaluation.ira.status == "fail"
    assert result.exit_code == 1


def test_prompts_that_never_show_the_concept_are_inconclusive(
    pipe: Any, registry: FeatureRegistry, judge: RememberingJudge
) -> None:
    """Prompts labelled with the concept whose images don't show it, or no such prompts at all, give exit code 3."""
    liars = tuple(
        prompt(one.text, object="pistol" if "cat" in one.text else "cat", style=dict(one.labels)["style"])
        for one in PROMPTS.prompts
    )
    lied = run_verify(policy_of(), registry, pipe=pipe, judge=judge, prompts=replace(PROMPTS, prompts=liars))
    assert (lied.concepts[0].n, lied.concepts[0].base_rate, lied.exit_code) == (4, 0.0, 3)
    without = replace(PROMPTS, prompts=PROMPTS.prompts[2:])
    absent = run_verify(policy_of(), registry, pipe=pipe, judge=judge, prompts=without)
    assert (absent.verdict, absent.exit_code, absent.pairs) == ("inconclusive", 3, ())


def test_pairs_are_drawn_from_the_same_noise_and_reported(
    pipe: Any, registry: FeatureRegistry, judge: RememberingJudge
) -> None:
    """Rows and images belong together: base images are those that the judge remembers, with their prompts' labels."""
    stages: list[tuple[str, int, int]] = []
    result = run_verify(
        policy_of(), registry, pipe=pipe, judge=judge, prompts=PROMPTS, on_progress=lambda *told: stages.append(told)
    )
    assert result.images is not None
    assert [dict(pair.base) for pair in result.pairs] == [dict(pair.expected) for pair in result.pairs]
    assert {(pair.prompt_id, pair.seed) for pair in result.pairs} == {
        (one.id, seed) for one in PROMPTS.prompts for seed in (1, 2)
    }
    assert not (result.images.base == result.images.guarded).all(axis=(1, 2, 3)).any()
    assert stages[0] == ("drawing without the guard", 0, 8)
    assert ("drawing with the guard", 8, 8) in stages


def test_the_pipeline_is_left_as_it_was(pipe: Any, registry: FeatureRegistry, judge: RememberingJudge) -> None:
    """After a verification no hook is left, and the scheduler is the pipeline's own."""
    scheduler = pipe.scheduler
    run_verify(policy_of(), registry, pipe=pipe, judge=judge, prompts=PROMPTS)
    assert pipe.scheduler is scheduler
    assert not any(module._forward_hooks for module in pipe.unet.modules())


def test_what_differs_from_the_policy_is_told(pipe: Any, registry: FeatureRegistry, judge: RememberingJudge) -> None:
    """Fewer images, other seeds and other prompts are warnings, which strict turns into exit code 4."""
    arguments: dict[str, Any] = {"pipe": pipe, "judge": judge, "prompts": PROMPTS}
    result = run_verify(policy_of(minimum_n=1), registry, seeds=[1], max_per_concept=1, strict=True, **arguments)
    assert result.seeds == (1,)
    assert result.concepts[0].n == 1
    told = " ".join(result.evaluation.warnings)
    assert "left out 1 pairs" in told
    assert "seeds 1 instead of the policy's 1, 2" in told
    assert "prompt set 'tiny-audit' instead" in told


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"role": "anchor"}, "role 'anchor'"),
        ({"model": "other"}, "for model 'other'"),
        ({"prompts": (prompt("a dog", object="dog"), *PROMPTS.prompts)}, "does not know"),
        ({"prompts": (prompt("a pistol", style="pistol"),)}, "does not know"),
    ],
)
def test_prompts_that_cannot_judge_are_refused(
    pipe: Any, registry: FeatureRegistry, judge: RememberingJudge, changes: dict[str, Any], message: str
) -> None:
    """Prompts that found features, belong to another model or ask for unknown things are refused before drawing."""
    with pytest.raises(CannotEvaluate, match=message):
        run_verify(policy_of(), registry, pipe=pipe, judge=judge, prompts=replace(PROMPTS, **changes))


def test_another_model_is_refused(registry: FeatureRegistry, judge: RememberingJudge) -> None:
    """A pipeline with other weights than the registered model's gives no verdict."""
    other = random_pipeline()
    other.unet.conv_in.weight.data.neg_()
    with pytest.raises(ModelMismatch):
        run_verify(policy_of(), registry, pipe=other, judge=judge, prompts=PROMPTS)


def test_the_registered_scheduler_is_used(tmp_path: Path, pipe: Any, judge: RememberingJudge) -> None:
    """A pipeline that comes with another sampler is drawn with the registered one, so its images are the known ones."""
    other = random_pipeline()
    other.scheduler = EulerDiscreteScheduler.from_config(other.scheduler.config)
    with FeatureRegistry.open(manifest=write_registry(tmp_path, pipe)) as registry:
        result = run_verify(policy_of(), registry, pipe=other, judge=judge, prompts=PROMPTS)
    assert result.concepts[0].base_rate == 1.0
    assert type(other.scheduler).__name__ == "EulerDiscreteScheduler"
