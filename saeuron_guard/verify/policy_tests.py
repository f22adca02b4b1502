"""Runs a policy's own tests: single prompts of which it is known whether the guard has to act."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from saeuron_guard.compiler.config import GuardConfig
from saeuron_guard.guard.guard import Guard
from saeuron_guard.policy.model import PolicyTest
from saeuron_guard.prompts.model import Prompt
from saeuron_guard.registry.store import FeatureRegistry
from saeuron_guard.verify.drawing import Progress, draw
from saeuron_guard.verify.figures import TestFigures
from saeuron_guard.verify.plan import Shot


def run_tests(
    pipe: Any, registry: FeatureRegistry, config: GuardConfig, tests: Sequence[PolicyTest], on_progress: Progress
) -> tuple[TestFigures, ...]:
    """Draw each test's prompt with the guard and note at which share of the positions each concept's features fired.

    Images that the guard refuses count as any other.
    Raises GuardNotEffective when it did not run in every step, and the errors of attaching it.
    """
    if not tests:
        return ()
    guard = Guard.from_config(config, registry.artefact_root)
    model = registry.model(config.model)
    found = []
    for number, test in enumerate(tests):
        on_progress("running the policy's tests", number, len(tests))
        shot = Shot(Prompt(f"test-{number}", test.prompt, ()), test.seed, ())
        guard.attach(pipe, refuse="blank")
        try:
            draw(pipe, model, [shot], "", lambda *_: None)
            (image,) = guard.report().images
        finally:
            guard.detach()
        fired = tuple((found.concept, found.positions) for found in image.concepts)
        found.append(TestFigures(test.prompt, test.seed, test.expect, test.concept, test.share, test.todo, fired))
    on_progress("running the policy's tests", len(tests), len(tests))
    return tuple(found)
