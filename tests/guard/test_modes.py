"""A guard without a rule that is enforced never stands between a pipeline and its images; it says what went wrong."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import EulerDiscreteScheduler

from saeuron_guard.errors import GuardNotEffective, GuardWarning
from saeuron_guard.guard import intervention
from saeuron_guard.guard.decision_log import DecisionLog
from saeuron_guard.guard.guard import Guard
from tests.guard.logbook import decisions_of
from tests.tiny import HOOKPOINTS, draw, make_coder, make_config, make_point, make_rule, patch


def make_watcher(*modes: str) -> Guard:
    """A guard with a concept in each of ``modes``."""
    coder = make_coder()
    rules = [
        replace(make_rule(f"c{place}", range(place * 8, place * 8 + 8)), mode=mode, share=1.0)
        for place, mode in enumerate(modes)
    ]
    return Guard(make_config([make_point(HOOKPOINTS[0], coder, rules)]), {HOOKPOINTS[0]: coder})


def remove_hook(pipe: Any) -> Callable[[], None]:
    """Somebody takes the guard's hook away."""
    pipe.unet.up_blocks[1].attentions[1]._forward_hooks.clear()
    return lambda: None


def replace_block(pipe: Any) -> Callable[[], None]:
    """A cache hands the block's input on as its output."""
    return patch(pipe.unet.up_blocks[1].attentions[1], "forward", lambda hidden_states, *_, **__: (hidden_states,))


def remove_the_models_hooks(pipe: Any) -> Callable[[], None]:
    """The denoiser's own hooks are gone, so that no step has a timestep."""
    pipe.unet._forward_pre_hooks.clear()
    return lambda: None


def short_of_memory(pipe: Any) -> Callable[[], None]:
    """What the guard computes with fails, as when memory runs out."""

    def fail(*_: Any) -> None:
        raise RuntimeError("out of memory")

    original = intervention.find_firing
    intervention.find_firing = fail

    def mend() -> None:
        intervention.find_firing = original

    return mend


def other_time(pipe: Any) -> Callable[[], None]:
    """A scheduler that gives noise levels for timesteps."""
    before = pipe.scheduler
    pipe.scheduler = EulerDiscreteScheduler.from_config(before.config, timestep_type="continuous")

    def mend() -> None:
        pipe.scheduler = before

    return mend


SPOILERS = {
    "hook removed": remove_hook,
    "block replaced": replace_block,
    "model's hooks removed": remove_the_models_hooks,
    "other time": other_time,
    "out of memory": short_of_memory,
}


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # diffusers' Euler scheduler
@pytest.mark.parametrize("spoil", SPOILERS.values(), ids=SPOILERS)
@pytest.mark.parametrize("modes", [("observe",), ("observe", "warn")], ids=str)
def test_a_watching_guard_that_cannot_run_lets_images_leave(
    pipe: Any, tmp_path: Path, spoil: Callable[[Any], Callable[[], None]], modes: tuple[str, ...]
) -> None:
    """The picture is the one without a guard; there is a warning, a count in the status and a line in the log.

    A guard with a rule that is enforced withholds it, for the same reason.
    """
    log = DecisionLog(tmp_path / "log.jsonl")
    guard = make_watcher(*modes).attach(pipe, log=log)
    mend = spoil(pipe)
    with pytest.warns(
        GuardWarning, match="did not run as it should, and nothing is enforced, so images left: "
    ) as told:
        found = draw(pipe)
    assert len([warning for warning in told if warning.category is GuardWarning]) == 1
    assert (guard.status().unguarded, guard.status().unlogged) == (1, 0)
    (line,) = decisions_of(log.path)
    assert (line.outcome, line.image, line.modes) == ("released-unguarded", None, modes)
    guard.detach()
    assert torch.equal(draw(pipe), found)
    mend()
    enforcing = make_watcher(*modes, "enforce").attach(pipe)
    mend = spoil(pipe)
    with pytest.raises((GuardNotEffective, RuntimeError)) as caught:
        draw(pipe)
    enforcing.detach()
    mend()
    assert str(caught.value)[:40] == line.why[:40]


def test_a_watching_guard_that_runs_says_nothing(pipe: Any) -> None:
    """No warning, nothing counted, and not a bit of the picture changed."""
    wanted = draw(pipe)
    guard = make_watcher("observe", "warn").attach(pipe)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(draw(pipe), wanted)
    assert guard.status().unguarded == 0
    assert guard.status().ready
    assert guard.report().concept("c0").fired
    guard.detach()


def test_the_model_alone_is_warned_of(pipe: Any) -> None:
    """Outside of pipeline calls there is no image to log; the call of the model goes on with a warning."""
    guard = make_watcher("observe").attach(pipe)
    undo = replace_block(pipe)
    sample, text = torch.zeros(1, 4, 8, 8), torch.zeros(1, 16, 32)
    with pytest.warns(GuardWarning, match="so the call went on"), torch.no_grad():
        found = pipe.unet(sample, 981, text).sample
    guard.detach()
    with torch.no_grad():
        assert torch.equal(pipe.unet(sample, 981, text).sample, found)
    undo()


def test_a_guard_that_only_watches_needs_the_exact_gate(pipe: Any) -> None:
    """The other gate could not promise to let images leave; attaching says so."""
    with pytest.raises(GuardNotEffective, match="nothing would be edited"):
        make_watcher("observe").attach(pipe, gate="threshold")
    make_watcher("observe", "enforce").attach(pipe, gate="threshold").detach()
